"""pellucid: encoder-decoder generation that is fast on ordinary machines and that you can see through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.loading import load
    from pellucid.translator import Translator

__all__ = ["Translator", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): `import pellucid` and `pellucid --help` must not pay for torch.
    if name == "Translator":
        from pellucid.translator import Translator

        return Translator
    if name == "load":
        from pellucid.loading import load

        return load
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
