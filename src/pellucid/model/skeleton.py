"""A model without numbers, and the numbers put into it: what loading does in the place of initialising.

Nothing is drawn, nothing is allocated twice, and a tensor that is a view of a mapped file stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pellucid.model.positions import make_positions

__all__ = ["place", "skeleton"]

Model = TypeVar("Model", bound=nn.Module)


def skeleton(make: Callable[[], Model]) -> Model:
    """What ``make`` builds, with parameters that have shapes and no numbers (PyTorch's ``meta`` device).

    Tables that a formula makes are real; those that were trained are to be replaced with everything else.
    """
    with torch.device("meta"):
        model = make()
    with torch.random.fork_rng(devices=[]):  # loading a model must not move the caller's random numbers
        for side in ("encoder", "decoder"):
            part = getattr(model, side, None)
            if part is not None:
                config: Any = model.config
                part.embedder.positions = make_positions(config, two_sided=side == "encoder")
    return model


def place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let ``tensors`` be the parameters of those names, without a copy; what is tied stays tied."""
    old = dict(model.named_parameters())
    new = {id(old[name]): nn.Parameter(tensor.detach()) for name, tensor in tensors.items()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in new:
                setattr(module, name, new[id(parameter)])
