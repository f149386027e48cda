"""M2M-100 and NLLB-200: pre-norm, fairseq's sinusoidal positions numbered from behind the padding token on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.interop.huggingface.family import FAIRSEQ_EMBEDDINGS, Family, fairseq_rows, fairseq_settings, whole_number

__all__ = ["M2M100"]

_DEFAULTS = {"activation_function": "relu", "scale_embedding": True, "attention_dropout": 0.1}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return fairseq_settings(
        config,
        _DEFAULTS,
        norm_placement="pre",
        positions="sinusoidal",
        sinusoidal_layout="fairseq",
        first_position=whole_number(config, "pad_token_id", 1) + 1,
    )


M2M100 = Family(
    model_types=("m2m_100",),
    title="M2M-100, NLLB-200",
    settings=_settings,
    embeddings=FAIRSEQ_EMBEDDINGS,
    rows=fairseq_rows,
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weights?", r"(model\.)?(encoder|decoder)\.version"),
)
