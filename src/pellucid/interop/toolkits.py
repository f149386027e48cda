"""Checkpoints of Marian, fairseq, OpenNMT-py and JoeyNMT: which file, which program wrote it, and the model made of it.

Knows where these programs put their files; what is in them is the business of a file for each.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pellucid.errors import ModelFolderError
from pellucid.interop.assembly import Assembled, assemble
from pellucid.interop.fairseq import fairseq_parts, is_fairseq
from pellucid.interop.joeynmt import is_joeynmt, joeynmt_parts
from pellucid.interop.marian import find_marian, marian_parts
from pellucid.interop.opennmt import is_opennmt, opennmt_parts
from pellucid.interop.pickled import read_pickled

__all__ = ["find_toolkit", "load_toolkit"]

_PREFERRED = ("checkpoint_best.pt", "best.ckpt", "model.pt", "checkpoint_last.pt")
_SUFFIXES, _MARIAN = (".pt", ".ckpt"), ".npz"


def find_toolkit(path: Path) -> Path | None:
    """The checkpoint that ``path`` means: itself, or the one in a folder; None where there is none.

    Raises:
        ModelFolderError: several, and none has a name that says it is the one.
    """
    if path.is_file():
        return path if path.suffix in (*_SUFFIXES, _MARIAN) else None
    if not path.is_dir() or (path / "run.json").exists():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    for name in _PREFERRED:
        if path / name in found:
            return path / name
    if len(found) > 1:
        raise ModelFolderError(
            f"{path}: several checkpoints ({', '.join(file.name for file in found)}): give the file that is meant"
        )
    return found[0] if found else find_marian(path)


def load_toolkit(file: Path, device: str | torch.device = "cpu") -> Assembled:
    """Read a checkpoint and the files beside it.

    Raises:
        ModelFolderError: unsupported, incomplete or damaged, or its parts do not fit each other.
    """
    if file.suffix == _MARIAN:
        return assemble(marian_parts(file), device)
    content = read_pickled(file)
    for recognises, read in (
        (is_joeynmt, joeynmt_parts), (is_opennmt, opennmt_parts), (is_fairseq, fairseq_parts),
    ):  # fmt: skip
        if recognises(content):
            return assemble(read(file, content), device)
    names = ", ".join(sorted(map(str, content))[:6])
    raise ModelFolderError(
        f"{file}: not a checkpoint of fairseq, OpenNMT-py or JoeyNMT (it holds {names or 'nothing'}): "
        "weights alone do not say what they are of; give the file that training wrote"
    )
