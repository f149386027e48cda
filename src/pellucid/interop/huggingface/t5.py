"""T5, mT5, Flan-T5, ByT5: relative positions, RMSNorm, no biases, unscaled attention; later ones have a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError
from pellucid.interop.huggingface.family import Family, activation
from pellucid.interop.huggingface.table import EmbeddingNames, Row

__all__ = ["T5"]

_DEFAULTS = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}
_MT5_DEFAULTS = {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    is_mt5 = config.get("model_type") == "mt5"
    c = {**_DEFAULTS, **(_MT5_DEFAULTS if is_mt5 else {}), **config}
    if not isinstance(c["feed_forward_proj"], str):
        raise ModelFolderError(f"feed_forward_proj must be text, not {c['feed_forward_proj']!r}")
    function, gated = c["feed_forward_proj"].removeprefix("gated-"), c["feed_forward_proj"].startswith("gated-")
    if c["feed_forward_proj"] == "gated-gelu":
        function = "gelu_new"  # what the checkpoints of that name were trained with
    # T5 1.0 divides by √M before the matrix that it shares with the embeddings; later ones, which share none, do not.
    scaled = not is_mt5 and config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    return {
        "hidden_size": c["d_model"],
        "encoder_layers": c["num_layers"],
        "decoder_layers": c.get("num_decoder_layers") or c["num_layers"],
        "num_heads": c["num_heads"],
        "head_dim": c["d_kv"],
        "ff_size": c["d_ff"],
        "activation": activation(function, gated),
        "norm": "rmsnorm",
        "norm_epsilon": c["layer_norm_epsilon"],
        "norm_placement": "pre",
        "positions": "relative",
        "relative_buckets": c["relative_attention_num_buckets"],
        "relative_max_distance": c["relative_attention_max_distance"],
        "scale_embeddings": False,
        "scale_attention": False,
        "scale_output": scaled,
        "bias": False,
        "dropout": c["dropout_rate"],
        "attention_dropout": c["dropout_rate"],
        "ff_dropout": c["dropout_rate"],
    }


def _rows(config: ModelConfig) -> list[Row]:
    rows: list[Row] = []

    def add(here: str, there: str) -> None:
        rows.append(Row(f"{here}.weight", (f"{there}.weight",)))

    def attention(here: str, there: str) -> None:
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            add(f"{here}.{ours}", f"{there}.{theirs}")

    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(count):
            here, there = f"{side}.layers.{number}", f"{side}.block.{number}.layer"
            attention(f"{here}.attention", f"{there}.0.SelfAttention")
            add(f"{here}.attention_sublayer.norm", f"{there}.0.layer_norm")
            if side == "decoder":
                attention(f"{here}.cross_attention", f"{there}.1.EncDecAttention")
                add(f"{here}.cross_attention_sublayer.norm", f"{there}.1.layer_norm")
            last = f"{there}.{2 if side == 'decoder' else 1}"
            add(f"{here}.feed_forward.up", f"{last}.DenseReluDense.{'wi_1' if config.gated else 'wi'}")
            if config.gated:
                add(f"{here}.feed_forward.gate", f"{last}.DenseReluDense.wi_0")
            add(f"{here}.feed_forward.down", f"{last}.DenseReluDense.wo")
            add(f"{here}.feed_forward_sublayer.norm", f"{last}.layer_norm")
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(Row(f"{side}.embedder.positions.table", (table,)))
        add(f"{side}.norm", f"{side}.final_layer_norm")
    return rows


T5 = Family(
    model_types=("t5", "mt5"),
    title="T5, mT5, Flan-T5, ByT5",
    settings=_settings,
    embeddings=EmbeddingNames(
        shared="shared.weight",
        source="encoder.embed_tokens.weight",
        target="decoder.embed_tokens.weight",
        output="lm_head.weight",
    ),
    rows=_rows,
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)
