"""What the tests of the model share: a table of architectures, models with random parameters, ragged batches.

Knows nothing about what is tested. The table holds every combination of position scheme, norm placement and key/value
heads; the other settings are spread over its rows so that each pair of values of two settings occurs.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.model.transformer import EncoderDecoder

__all__ = [
    "CONFIGS",
    "POSITIONS",
    "SETTINGS",
    "TABLE",
    "VOCAB",
    "assert_close",
    "make_config",
    "make_model",
    "make_source",
]

VOCAB = 11
POSITIONS = ("sinusoidal", "learned", "rotary", "relative", "none")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "positions": POSITIONS,
    "norm_placement": ("pre", "post"),
    "num_kv_heads": (4, 2, 1),
    "cross_num_kv_heads": (4, 2, 1),
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("relu", "gelu", "gelu_tanh", "silu", "reglu", "geglu", "geglu_tanh", "swiglu"),
    "tied_embeddings": ("three", "two", "inputs", "none"),
    "encoder_layers": (1, 3),
    "decoder_layers": (1, 2),
    "bias": (True, False),
    "scale_embeddings": (True, False),
    "head_dim": (None, 6),
    "norm_epsilon": (None, 0.01),
    "sinusoidal_layout": ("interleaved", "halves", "fairseq"),
    "first_position": (0, 2),
    "embedding_norm": (False, True),
    "scale_attention": (True, False),
    "scale_output": (False, True),
    "output_bias": (False, True),
}


def make_config(**settings: Any) -> ModelConfig:
    """A tiny architecture; ``settings`` win."""
    sizes = dict(hidden_size=16, num_heads=4, ff_size=24, encoder_layers=1, decoder_layers=2, max_positions=64)
    sizes |= dict(relative_buckets=8, relative_max_distance=10)
    return ModelConfig(**{**sizes, "dropout": 0.0, **settings})


def make_model(
    config: ModelConfig, source_vocab: int = VOCAB, target_vocab: int = VOCAB, seed: int = 1
) -> EncoderDecoder:
    """A model for inference, no parameter of which has a special value: a forgotten bias or norm would show."""
    torch.manual_seed(seed)
    model = EncoderDecoder(config, source_vocab, target_vocab).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_source(*lengths: int, vocab: int = VOCAB) -> tuple[Tensor, Tensor]:
    """Random tokens 4 … of these lengths, padded with 0, and the mask."""
    source = torch.randint(4, vocab, (len(lengths), max(lengths)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return source * mask, mask


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """max|Δ| ≤ tolerance · max|expected|: the measure of the decoding contract."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert expected.isfinite().all()  # nothing is far from infinity by this measure
    difference = (found - expected).abs().max().item()
    assert difference <= tolerance * expected.abs().max().item(), f"max|Δ| = {difference:.2e}"


def _table() -> list[ModelConfig]:
    full, spread = list(SETTINGS)[:4], list(SETTINGS)[4:]
    rng = random.Random(1)
    rows: list[ModelConfig] = []
    seen: set[tuple[tuple[str, Any], tuple[str, Any]]] = set()
    for values in itertools.product(*(SETTINGS[name] for name in full)):
        fixed = dict(zip(full, values, strict=True))
        drawn = [{**fixed, **{name: rng.choice(SETTINGS[name]) for name in spread}} for _ in range(30)]
        pairs = [set(itertools.combinations(row.items(), 2)) - seen for row in drawn]
        best = max(range(len(drawn)), key=lambda number: len(pairs[number]))
        seen |= pairs[best]
        rows.append(make_config(**drawn[best]))
    return rows


def _name(config: ModelConfig) -> str:
    return "-".join(str(getattr(config, name)) for name in SETTINGS)


TABLE = _table()
CONFIGS = [pytest.param(config, id=_name(config)) for config in TABLE]
