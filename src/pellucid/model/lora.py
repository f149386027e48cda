"""Low-rank adapters of a trained model's linear layers (LoRA, Hu et al. 2021), and their numbers on disk.

y = W·x + b becomes W·x + b + α/r · B·A·x, with A [r, in] and B [out, r]. B starts as zeros, so that the model starts as
what it was. The layer's own parameters keep their names; A and B are ``lora_a.weight`` and ``lora_b.weight`` below it.
Knows nothing of training, nor of where the adapted model is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pellucid.errors import ModelFolderError
from pellucid.model.adapter_config import ADAPTER_CONFIG, ADAPTER_FILE, AdapterConfig, write_adapter_config
from pellucid.model.layers import Dropout
from pellucid.model.storage import save_config, save_tensors
from pellucid.model.transformer import EncoderDecoder

__all__ = [
    "LoraLinear",
    "adapted_layers",
    "add_adapters",
    "load_adapter",
    "merge",
    "read_adapter",
    "save_adapter",
    "weights_sha256",
]


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it.

    Args:
        base: the layer; its parameters become this one's, the same tensors under the same names.
        rank: r.
        alpha: α.
        dropout: on what goes into A.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        device = base.weight.device
        self.lora_a = nn.Linear(base.in_features, rank, bias=False, device=device)  # drawn as in the authors' code
        self.lora_b = nn.Linear(rank, base.out_features, bias=False, device=device)
        nn.init.zeros_(self.lora_b.weight)
        self.dropout = Dropout(dropout)
        self.scale = alpha / rank

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """The layer's own output and the adapter's."""
        adapted: Tensor = self.lora_b(self.lora_a(self.dropout(x)))
        return F.linear(x, self.weight, self.bias) + self.scale * adapted


def add_adapters(model: nn.Module, layers: Iterable[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Put an adapter beside each of the linear layers of these names; draws random numbers for A."""
    for name in layers:
        parent, _, leaf = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(model.get_submodule(parent), leaf, LoraLinear(base, rank, alpha, dropout))


def adapted_layers(model: nn.Module) -> tuple[str, ...]:
    """The names of the layers that have an adapter."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, LoraLinear))


@torch.no_grad()
def merge(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """The weights of an ordinary model that computes what base and adapter compute: W + α/r · B·A.

    Args:
        weights: of the base, by the names of its parameters; they are not changed.
        adapter: as :func:`read_adapter` gives it.
        config: its layers, rank and α.
    """
    merged = dict(weights)
    for layer in config.layers:
        change = adapter[f"{layer}.lora_b.weight"] @ adapter[f"{layer}.lora_a.weight"]
        merged[f"{layer}.weight"] = weights[f"{layer}.weight"] + config.alpha / config.rank * change
    return merged


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's numbers with their names and shapes, whatever the file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# -- on disk


def save_adapter(
    folder: Path,
    model: EncoderDecoder,
    weights: Mapping[str, Tensor] | None,
    extra: Mapping[str, Any] | None,
    *,
    adapter: AdapterConfig,
) -> None:
    """Write an adapted model's adapters and ``config.json``, and nothing of its base; see ``save_model``.

    Args:
        folder: an existing folder.
        model: gives the architecture and, without ``weights``, the numbers.
        weights: other values for its parameters, e.g. their average; those of the base are not looked at.
        extra: further entries of ``config.json``.
        adapter: what is written into ``adapter_config.json``.
    """
    tensors = dict(model.named_parameters()) if weights is None else weights
    save_tensors(folder / ADAPTER_FILE, {name: tensors[name] for name in adapter.tensors})
    write_adapter_config(folder, adapter)
    save_config(folder, model, extra)


def read_adapter(folder: Path, config: AdapterConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A and B of every layer, ``LAYER.lora_a.weight`` and ``LAYER.lora_b.weight``.

    Args:
        folder: with both files.
        config: what ``adapter_config.json`` says.
        weights: of the model they are for, by name.

    Raises:
        ModelFolderError: the file is missing or damaged, or not of this ``config`` and this model.
    """
    path = folder / ADAPTER_FILE
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path}: not readable as safetensors ({error}); the file is missing or damaged: copy it again"
        ) from None
    expected: dict[str, list[int]] = {}
    for layer in config.layers:
        if (matrix := weights.get(f"{layer}.weight")) is not None:
            expected[f"{layer}.lora_a.weight"] = [config.rank, matrix.shape[1]]
            expected[f"{layer}.lora_b.weight"] = [matrix.shape[0], config.rank]
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    names = {**expected, **found, **dict.fromkeys(config.tensors)}
    wrong = [name for name in names if found.get(name) != expected.get(name, [])]
    if wrong:
        raise ModelFolderError(
            f"{path}: adapters that do not fit {ADAPTER_CONFIG} or the base model: {', '.join(wrong[:5])}"
            f"{', …' if len(wrong) > 5 else ''}: copy the whole folder again"
        )
    return tensors


@torch.no_grad()
def load_adapter(folder: Path, model: EncoderDecoder, config: AdapterConfig) -> None:
    """Put saved adapters into a model that has such, from :func:`add_adapters`.

    Raises:
        ModelFolderError: as for :func:`read_adapter`.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in read_adapter(folder, config, parameters).items():
        parameters[name].copy_(tensor)
