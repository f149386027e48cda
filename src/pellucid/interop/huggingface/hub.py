"""Checkpoints by name: fetched once from the Hugging Face hub into its cache, only the files that are read here."""

from __future__ import annotations

import re
from pathlib import Path

from pellucid.errors import MissingExtraError, ModelFolderError

__all__ = ["fetch", "is_hub_name"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ("*.json", "*.safetensors", "*.spm", "*.model", "merges.txt")
_PICKLED = ("*.json", "pytorch_model*.bin", "*.spm", "*.model", "merges.txt")


def is_hub_name(path: Path) -> bool:
    """Whether this can only be a name: ``owner/name``, and no such thing is here, nor a folder ``owner``."""
    return bool(_NAME.fullmatch(path.as_posix())) and not path.exists() and not path.parent.exists()


def fetch(name: str) -> Path:
    """The folder of a checkpoint in the local cache, downloaded where it is not there yet.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ModelFolderError: no such checkpoint, no access, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import list_repo_files, snapshot_download
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface", f"{name}: no such model folder; fetching one from the hub") from None
    try:
        files = list_repo_files(name)
        wanted = _FILES if any(file.endswith(".safetensors") for file in files) else _PICKLED
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as error:  # of many libraries below it; each says in its first line what happened
        kept = _kept(name)
        if kept is not None:
            return kept
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise ModelFolderError(
            f"{name}: no such model folder, and it cannot be fetched from the Hugging Face hub ({reason}): "
            "check the name and the network, or download it elsewhere and give the folder"
        ) from None


def _kept(name: str) -> Path | None:
    """What an earlier call has fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:
        return None
