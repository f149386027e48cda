"""BART, mBART, mBART-50 and BARThez: learned positions from row 2 on, a norm on the embeddings; mBART is pre-norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.interop.huggingface.family import FAIRSEQ_EMBEDDINGS, Family, fairseq_rows, fairseq_settings
from pellucid.interop.huggingface.table import POSITION_ROWS, ROW_VECTOR, Row

__all__ = ["BART", "MBART"]


def _settings(config: Mapping[str, Any], norm_placement: str) -> dict[str, Any]:
    return fairseq_settings(
        config,
        norm_placement=norm_placement,
        positions="learned",
        max_positions=config.get("max_position_embeddings", 1024),
        embedding_norm=True,
        output_bias=True,
    )


def _bart_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return _settings(config, "post")


def _mbart_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return _settings(config, "pre")


def _rows(config: ModelConfig) -> list[Row]:
    tables = [
        Row(f"{side}.embedder.positions.table", (f"model.{side}.embed_positions.weight",), POSITION_ROWS)
        for side in ("encoder", "decoder")
    ]
    return [*fairseq_rows(config), *tables, Row("output.bias", ("final_logits_bias",), ROW_VECTOR, optional=True)]


BART = Family(
    model_types=("bart",),
    title="BART",
    settings=_bart_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=_rows,
    ignored=(r"(model\.)?(encoder|decoder)\.version",),
)
MBART = Family(
    model_types=("mbart",),
    title="mBART, mBART-50, BARThez",
    settings=_mbart_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=_rows,
    ignored=(r"(model\.)?(encoder|decoder)\.version",),
)
