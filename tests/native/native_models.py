"""Random models in both engines, for the tests of the native one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.decoding.rules import Sentence, TokenRules
from pellucid.model.transformer import EncoderDecoder
from pellucid.native.build import NativeUnavailableError, load_library
from pellucid.native.engine import NativeModel
from pellucid.native.packing import Precision, pack

EOS, BOS = 2, 1
RULES = TokenRules(BOS, EOS, forbidden=(0, BOS))


def needs_engine() -> None:
    """Skip a module's tests where the engine cannot run."""
    try:
        load_library()
    except NativeUnavailableError as error:
        pytest.skip(f"no native engine: {error}", allow_module_level=True)


def random_model(
    seed: int = 1, vocab: tuple[int, int] = (83, 83), spread: float = 3.0, **settings: Any
) -> EncoderDecoder:
    """A model whose outputs are neither flat nor certain."""
    plain: dict[str, Any] = {
        "hidden_size": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_heads": 4,
        "ff_size": 48,
        "dropout": 0.0,
    }
    torch.manual_seed(seed)
    model = EncoderDecoder(ModelConfig(**{**plain, **settings}), *vocab).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
        model.output.weight.mul_(spread)
    return model


def packed(model: EncoderDecoder, folder: Path, precision: Precision = "float32") -> NativeModel:
    path = folder / f"{precision}.bin"
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    pack(path, weights, model.config, (model.source_vocab_size, model.target_vocab_size), precision)
    return NativeModel(path)


def random_sources(count: int, longest: int = 9, vocab: int = 83, seed: int = 5) -> list[list[int]]:
    """Token numbers with </s> at the end; the first source is nothing else."""
    rng = np.random.default_rng(seed)
    sources = [[*rng.integers(3, vocab, rng.integers(0, longest)).tolist(), EOS] for _ in range(count)]
    sources[0] = [EOS]
    return sources


def rectangle(sources: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources as PyTorch's side takes them, and which places are real."""
    longest = max(map(len, sources))
    mask = torch.tensor([[place < len(source) for place in range(longest)] for source in sources])
    return torch.tensor([[*source, *[0] * (longest - len(source))] for source in sources]), mask


def sentences(sources: Sequence[Sequence[int]], settings: DecodingConfig, **given: Any) -> list[Sentence]:
    return [Sentence(settings.limit(len(source)), index, **given) for index, source in enumerate(sources)]
