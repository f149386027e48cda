"""What a folder with adapters says of them: whose they are, where they sit. ``adapter_config.json``, without PyTorch.

Such a folder has the ``config.json`` and the tokenizers of a model folder, and adapters in the place of weights. Knows
nothing of the numbers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pellucid.errors import ModelFolderError
from pellucid.files import write_json

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_FILE",
    "AdapterConfig",
    "is_adapter_folder",
    "read_adapter_config",
    "write_adapter_config",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter.safetensors"
VERSION = 1


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Low-rank adapters of a model.

    Attributes:
        base: the model they were trained beside: an absolute path, a name on the hub, or the bundled model's name.
        base_sha256: of its weights.
        rank, alpha: r and α.
        layers: names of the linear layers that have one.
    """

    base: str
    base_sha256: str
    rank: int
    alpha: float
    layers: tuple[str, ...]

    @property
    def tensors(self) -> list[str]:
        """The names of all A and B."""
        return [f"{layer}.{part}.weight" for layer in self.layers for part in ("lora_a", "lora_b")]


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters instead of weights."""
    return (folder / ADAPTER_CONFIG).is_file()


def write_adapter_config(folder: Path, config: AdapterConfig) -> None:
    """Write ``adapter_config.json``."""
    write_json(folder / ADAPTER_CONFIG, {"format": "pellucid lora", "version": VERSION, **asdict(config)})


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read ``adapter_config.json``.

    Raises:
        ModelFolderError: it is damaged, or of another version or program.
    """
    path = folder / ADAPTER_CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        form, version = values.pop("format", None), values.pop("version", None)
        config = AdapterConfig(**{**values, "layers": tuple(values["layers"])})
        valid = all(isinstance(text, str) for text in (config.base, config.base_sha256, *config.layers))
        valid = valid and isinstance(config.rank, int) and config.rank > 0 and isinstance(config.alpha, int | float)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ModelFolderError(f"{path}: not the config of an adapter; the file is damaged: copy it again") from None
    if form != "pellucid lora" or version != VERSION or not valid:
        raise ModelFolderError(
            f"{path}: not an adapter that this pellucid reads (format {form}, version {version}; it reads pellucid "
            f"lora, {VERSION}): use the program that wrote it"
        )
    return config
