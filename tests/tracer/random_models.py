"""Small models with random weights, as translators: what a trace says must hold for any weights."""

from __future__ import annotations

from typing import Any

import torch

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.tokenizer_kinds import SymbolTokenizer
from pellucid.model.transformer import EncoderDecoder
from pellucid.translator import Translator

SYMBOLS = [f"w{number}" for number in range(20)]
TEXT = "w1 w2 w3 w4 w5"

SCHEMES = ("sinusoidal", "learned", "rotary", "relative", "none")


def make_translator(**settings: Any) -> Translator:
    """A model of two layers and four heads in two groups."""
    torch.manual_seed(3)
    sizes = dict(hidden_size=32, encoder_layers=2, decoder_layers=2, num_heads=4, num_kv_heads=2, ff_size=64)
    config = ModelConfig(**{**sizes, "max_positions": 40, **settings})
    tokenizer = SymbolTokenizer(SYMBOLS)
    model = EncoderDecoder(config, tokenizer.vocab_size, tokenizer.vocab_size)
    with torch.no_grad():  # sharper than at the start of a training, so that nothing is equal by being flat
        for parameter in model.parameters():
            parameter.mul_(1.7)
    return Translator(model.eval(), tokenizer, tokenizer, DecodingConfig(beam_size=3, min_length=5, max_length=9))
