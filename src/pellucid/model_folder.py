"""Which folder is meant by what somebody names: a model folder, or a run's best or last. Knows names alone."""

from __future__ import annotations

from pathlib import Path

from pellucid.errors import ModelFolderError
from pellucid.files import present_folder

__all__ = ["find_model_folder", "has_config"]


def has_config(folder: Path) -> bool:
    """Whether a config stands in ``folder`` (it may still be incomplete)."""
    return (folder / "config.json").is_file()


def find_model_folder(path: Path) -> Path:
    """The model folder that a path means.

    Raises:
        ModelFolderError: none.
    """
    if not path.exists():
        raise ModelFolderError(f"{path}: no such model folder")
    if not path.is_dir():
        raise ModelFolderError(f"{path}: a file, where a model folder is expected")
    if has_config(path):
        return path
    for name in ("best", "last"):
        folder = present_folder(path / name)
        if has_config(folder):
            return folder
    raise ModelFolderError(
        f"{path}: not a model folder (it has no config.json) and not a run folder (it has no best/ or last/ with one)"
    )
