"""Checkpoints by name: fetched once from the Hugging Face hub into its cache, only the files that are read here.

What is in the cache whole is used as it is, without asking the hub: a name means the same model every time. Another
state is had by its revision, ``owner/name@v1.0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pellucid.errors import MissingExtraError, ModelFolderError
from pellucid.interop.huggingface.folder import missing_weights

__all__ = ["fetch", "is_hub_name"]

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?")
# Names in the top folder: others are of other programs (onnx/model.safetensors).
_SMALL = re.compile(r"[^/]+\.(json|spm|model)|merges\.txt")
_SAFE = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


def is_hub_name(path: Path) -> bool:
    """Whether this can only be a name: ``owner/name``, and no such thing is here, nor a folder ``owner``.

    A revision may follow: ``owner/name@revision``.
    """
    found = _NAME.fullmatch(path.as_posix())
    return found is not None and not path.exists() and not Path(found[1]).parent.exists()


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
    found = _NAME.fullmatch(name)
    assert found is not None
    repository, revision = found[1], found[2]
    if (kept := _kept(repository, revision)) is not None:
        return kept
    try:
        small, weights = _wanted(list_repo_files(repository, revision=revision))
        # Weights last: a folder with all of them has everything, wherever a download was cut off.
        snapshot_download(repository, revision=revision, allow_patterns=small)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*small, *weights]))
    except Exception as error:  # of many libraries below it; each says in its first line what happened
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise ModelFolderError(
            f"{name}: no such model folder, and it cannot be fetched from the Hugging Face hub ({reason}): "
            "check the name and the network, or download it elsewhere and give the folder"
        ) from None


def _wanted(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of a repository's files, the small ones and those with weights: of one kind, safetensors before pickles."""
    files = list(files)
    small = [file for file in files if _SMALL.fullmatch(file)]
    weights = [file for file in files if _SAFE.fullmatch(file)]
    return small, weights or [file for file in files if _PICKLED.fullmatch(file)]


def _kept(repository: str, revision: str | None) -> Path | None:
    """What an earlier call has fetched, if it is whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        return None if missing_weights(folder) else folder
    except Exception:
        return None
