"""Marian, OPUS-MT and Pegasus: sines then cosines, a bias on the logits; Marian is post-norm, Pegasus pre-norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.interop.huggingface.family import FAIRSEQ_EMBEDDINGS, Family, fairseq_rows, fairseq_settings
from pellucid.interop.huggingface.table import ROW_VECTOR, Row

__all__ = ["MARIAN", "PEGASUS"]


def _marian_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return _settings(config, "post")


def _pegasus_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return _settings(config, "pre")


def _settings(config: Mapping[str, Any], norm_placement: str) -> dict[str, Any]:
    return fairseq_settings(
        config,
        norm_placement=norm_placement,
        positions="sinusoidal",
        sinusoidal_layout="halves",
        output_bias=True,
    )


def _rows(config: ModelConfig) -> list[Row]:
    return [*fairseq_rows(config), Row("output.bias", ("final_logits_bias",), ROW_VECTOR, optional=True)]


# Tables of sines that some checkpoints hold are computed here.
_IGNORED = (r"model\.(encoder|decoder)\.embed_positions\.weight",)

MARIAN = Family(
    model_types=("marian",),
    title="Marian, OPUS-MT",
    settings=_marian_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=_rows,
    ignored=_IGNORED,
)
PEGASUS = Family(
    model_types=("pegasus",),
    title="Pegasus",
    settings=_pegasus_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=_rows,
    ignored=_IGNORED,
)
