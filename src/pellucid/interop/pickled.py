"""PyTorch checkpoints of any program, read without running anything that is in them.

A pickle is a program: it names functions, and whoever reads it calls them. The reader here gives the few names that
rebuild tensors what they mean, and every other name a class that only remembers what it was given (:class:`Inert`).
PyTorch's own ``weights_only`` refuses such files instead: it has no way of passing over a class, and what these
checkpoints hold beside their tensors (settings as an ``argparse.Namespace``, vocabularies as objects of torchtext,
states of optimisers and tasks) differs from version to version of the programs that wrote them. Knows no program.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import ModelFolderError

__all__ = ["Inert", "read_pickled", "settings_of", "tensors_of"]


class Inert:
    """A value of a class that this reader does not know: it keeps its state and does nothing.

    Attributes:
        state: attributes by name, and entries where the class was a kind of dict.
        items: what it put in, in order, where the class was a kind of list.
        arguments: what the class or function was called with.
    """

    known_as = "?"

    state: dict[str, Any]
    items: list[Any]
    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.state, made.items, made.arguments = {}, [], arguments
        return made

    def __call__(self, *arguments: Any, **_: Any) -> Inert:
        return Inert(*arguments)  # a function that came from a call, of getattr say

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (__dict__, slots)
            if isinstance(part, dict):
                self.state.update({str(name): value for name, value in part.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[str(key)] = value

    def append(self, value: Any) -> None:
        """What the pickle of a kind of list asks for."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """Likewise."""
        self.items.extend(values)

    add = append


def _inert(module: str, name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"known_as": f"{module}.{name}"})


# Nothing here does more than build a tensor, a dict or a number from what it is given.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1") if encoding == "latin1" else b"",
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("__builtin__", "set"): set,  # as pickles of protocol 2 write it
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _KNOWN.get((module, name)) or _inert(module, name)


class _Reader:
    """What ``torch.load`` takes in the place of the module ``pickle``."""

    Unpickler = _Unpickler
    __name__ = "pellucid's reader"

    @staticmethod
    def load(file: Any, **settings: Any) -> Any:
        return _Unpickler(file, **settings).load()


def read_pickled(path: Path) -> dict[str, Any]:
    """A checkpoint's content: tensors, plain values, and :class:`Inert` ones.

    Raises:
        ModelFolderError: damaged, cut short, or not a checkpoint (a dict of named parts).
    """
    damaged = ModelFolderError(f"{path}: not readable as a PyTorch checkpoint; the file is damaged or cut short")
    try:
        if _is_program(path):
            raise ModelFolderError(
                f"{path}: a TorchScript program, not a checkpoint: give the file that training wrote"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Reader)
    except ModelFolderError:
        raise
    except MemoryError:
        raise
    except Exception:  # a damaged pickle may fail in any way
        raise damaged from None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path}: a checkpoint is a dict of named parts; this is a {type(value).__name__}")
    return value


def _is_program(path: Path) -> bool:
    """Whether ``torch.load`` would hand it to ``torch.jit``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def tensors_of(path: Path, value: Any, part: str) -> dict[str, Tensor]:
    """Tensors by name, in float32 where they are floating-point numbers.

    Raises:
        ModelFolderError: it is something else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelFolderError(f"{path}: its part {part!r} should be tensors by name and is not")
    return {
        str(name): tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in value.items()
    }


def settings_of(value: Any) -> dict[str, Any]:
    """Settings by name, from a Namespace, a dict, or an object of a settings library; empty where there are none."""
    if isinstance(value, Inert):
        # omegaconf keeps its nodes in _content, and each node's value in _val.
        content = value.state.get("_content", value.state)
        content = content if isinstance(content, dict) else {}
    elif isinstance(value, Mapping):
        content = dict(value)
    else:
        return {}
    return {
        str(name): entry.state["_val"] if isinstance(entry, Inert) and "_val" in entry.state else entry
        for name, entry in content.items()
    }
