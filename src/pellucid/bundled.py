"""Where the model is that comes with pellucid, and the trace that was recorded of it.

Knows nothing of what is in them; ``scripts/bundle.py`` makes both from a run.
"""

from __future__ import annotations

from pathlib import Path

from pellucid.errors import ModelFolderError

__all__ = ["BUNDLED", "MODELS", "RECORDED", "bundled_folder", "is_bundled_name"]

BUNDLED = "zh-en"
"""The model that is used where none is named: Chinese to English."""

MODELS = Path(__file__).resolve().parent / "models"
RECORDED = Path(__file__).resolve().parent / "explorer" / "recorded"


def is_bundled_name(path: str | Path) -> bool:
    """Whether this can only be the bundled model's name: a file or folder that is here and called so comes first."""
    return str(path) == BUNDLED and not Path(path).exists()


def bundled_folder() -> Path:
    """The bundled model's folder.

    Raises:
        ModelFolderError: this installation has none.
    """
    folder = MODELS / BUNDLED
    if not folder.is_dir():
        raise ModelFolderError(
            f"the bundled model {BUNDLED} is missing from this installation of pellucid ({folder}): install pellucid "
            "again, or name a model folder of your own (pellucid demo trains one in some minutes)"
        )
    return folder
