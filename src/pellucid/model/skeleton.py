"""A model without numbers, and the numbers put into it: what loading does in the place of initialising.

Nothing is drawn, nothing is allocated twice, and a tensor that is a view of a mapped file stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["place", "skeleton"]

Model = TypeVar("Model", bound=nn.Module)


class _Unfilled(TorchFunctionMode):
    """Parameters get no memory, and their initialisation is left out; all else is computed as it is.

    With ``torch.device("meta")`` for everything, PyTorch would load its compiler (1.5 s) to draw what is not kept.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        if function is torch.empty:
            given = {**given, "device": "meta"}
        return function(*args, **given)


def skeleton(make: Callable[[], Model]) -> Model:
    """What ``make`` builds, with parameters that have shapes and no numbers (PyTorch's ``meta`` device).

    Tables that a formula makes are real.
    """
    with _Unfilled():
        return make()


def place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let ``tensors`` be the parameters of those names, without a copy; what is tied stays tied."""
    old = dict(model.named_parameters())
    new = {id(old[name]): nn.Parameter(tensor.detach()) for name, tensor in tensors.items()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in new:
                setattr(module, name, new[id(parameter)])
