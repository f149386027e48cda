"""Small random models of ours with every kind of tokenizer, to be written for other programs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from hf_twins import CORPUS

from pellucid.config import DecodingConfig, ModelConfig, TokenizerConfig
from pellucid.data.tokenizer import save_tokenizers, train_tokenizers
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.model.storage import save_model
from pellucid.model.transformer import EncoderDecoder

__all__ = ["SIZES", "make_model", "tokenizers", "write_folder"]

SIZES: dict[str, Any] = dict(hidden_size=32, encoder_layers=2, decoder_layers=3, num_heads=4, ff_size=48)


@functools.cache
def tokenizers(kind: str = "sentencepiece", joint: bool = True, model: str = "unigram") -> tuple[Tokenizer, Tokenizer]:
    """Learned from a few sentences; the target side is in capitals."""
    settings: dict[str, Any] = {"kind": kind, "joint": joint, "model": model}
    if kind == "sentencepiece":
        settings |= {"vocab_size": 330}
    pairs = [(text, text.upper() if not joint else text) for text in CORPUS]
    return train_tokenizers(TokenizerConfig(**settings), pairs)


def make_model(source: Tokenizer, target: Tokenizer, **settings: Any) -> EncoderDecoder:
    """Random weights of which none has a special value: a forgotten one would show."""
    torch.manual_seed(3)
    config = ModelConfig(**{**SIZES, **settings})
    model = EncoderDecoder(config, source.vocab_size, target.vocab_size).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embedding" not in name and name != "output.weight":
                parameter.mul_(1.5)
    return model


def write_folder(folder: Path, *, kind: str = "sentencepiece", joint: bool = True, **settings: Any) -> Path:
    """A model folder."""
    source, target = tokenizers(kind, joint)
    folder.mkdir(parents=True)
    decoding = DecodingConfig(max_length=20, length_penalty="average").model_dump(mode="json")
    save_model(folder, make_model(source, target, **settings), extra={"decoding": decoding})
    save_tokenizers(folder / "tokenizer", source, target)
    return folder
