"""Pegasus: pre-norm, sines then cosines, a bias on the logits that is 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.interop.huggingface.family import FAIRSEQ_EMBEDDINGS, Family, fairseq_rows, fairseq_settings
from pellucid.interop.huggingface.table import ROW_VECTOR, Row

__all__ = ["PEGASUS"]

_DEFAULTS = {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "scale_embedding": False,
}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return fairseq_settings(
        config,
        _DEFAULTS,
        norm_placement="pre",
        positions="sinusoidal",
        sinusoidal_layout="halves",
        output_bias=True,
    )


def _rows(config: ModelConfig) -> list[Row]:
    return [*fairseq_rows(config), Row("output.bias", ("final_logits_bias",), ROW_VECTOR, optional=True)]


PEGASUS = Family(
    model_types=("pegasus",),
    title="Pegasus",
    settings=_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=_rows,
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
)
