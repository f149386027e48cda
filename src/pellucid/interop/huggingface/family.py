"""What a family of checkpoints has to say about itself, and what the families that came from fairseq share.

Knows names and settings; opens no file. A family's file gives a :class:`Family`; the list of all is in architecture.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError
from pellucid.interop.huggingface.table import EmbeddingNames, Row

__all__ = [
    "ACTIVATIONS",
    "FAIRSEQ_EMBEDDINGS",
    "Family",
    "activation",
    "fairseq_rows",
    "fairseq_settings",
    "whole_number",
]

# Names of transformers' functions and of ours.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        model_types: what ``model_type`` in config.json says.
        title: for people.
        settings: our model settings from config.json, all but ``tied_embeddings``.
        embeddings: names of the matrices over the vocabulary.
        rows: the other rows of the table, for a model of these settings.
        ignored: names that a file may hold without a meaning.
    """

    model_types: tuple[str, ...]
    title: str
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    embeddings: EmbeddingNames
    rows: Callable[[ModelConfig], list[Row]]
    ignored: tuple[str, ...] = ()


FAIRSEQ_EMBEDDINGS = EmbeddingNames(
    shared="model.shared.weight",
    source="model.encoder.embed_tokens.weight",
    target="model.decoder.embed_tokens.weight",
    output="lm_head.weight",
)


# What the configs of Marian, BART, mBART and Pegasus mean where they leave something out; their classes agree.
_DEFAULTS: dict[str, Any] = {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "scale_embedding": False,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


def whole_number(config: Mapping[str, Any], name: str, default: int) -> int:
    """A setting to count with.

    Raises:
        ModelFolderError: it is something else.
    """
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFolderError(f"{name} must be a whole number, not {value!r}")
    return value


def activation(name: Any, gated: bool = False) -> str:
    """Our name of an activation function.

    Raises:
        ModelFolderError: there is none.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelFolderError(f"the activation function {name} is not supported; supported: {', '.join(ACTIVATIONS)}")
    plain = ACTIVATIONS[name]
    return {"relu": "reglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}[plain] if gated else plain


def fairseq_settings(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Our settings from a config.json in the words of BART, which Marian, mBART, M2M-100 and Pegasus share.

    Args:
        config: config.json.
        defaults: what the family's configs mean, other than Marian's, where they leave something out.
        settings: what else holds for the family.
    """
    c = {**_DEFAULTS, **(defaults or {}), **config}
    for what in ("attention_heads", "ffn_dim"):
        sides = c[f"encoder_{what}"], c[f"decoder_{what}"]
        if sides[0] != sides[1]:
            raise ModelFolderError(
                f"encoder_{what} ({sides[0]}) and decoder_{what} ({sides[1]}) differ: that is not supported"
            )
    return {
        "hidden_size": c["d_model"],
        "encoder_layers": c["encoder_layers"],
        "decoder_layers": c["decoder_layers"],
        "num_heads": c["encoder_attention_heads"],
        "ff_size": c["encoder_ffn_dim"],
        "activation": activation(c["activation_function"]),
        "scale_embeddings": c["scale_embedding"],
        "dropout": c["dropout"],
        "attention_dropout": c["attention_dropout"],
        "ff_dropout": c["activation_dropout"],
        **settings,
    }


def fairseq_rows(config: ModelConfig) -> list[Row]:
    """The rows of the layers, in the names of BART, and of the norms around them."""
    rows: list[Row] = []

    def pair(here: str, there: str) -> None:
        rows.extend(Row(f"{here}.{part}", (f"{there}.{part}",)) for part in ("weight", "bias"))

    def attention(here: str, there: str) -> None:
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")):
            pair(f"{here}.{ours}", f"{there}.{theirs}")

    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(count):
            here, there = f"{side}.layers.{number}", f"model.{side}.layers.{number}"
            attention(f"{here}.attention", f"{there}.self_attn")
            pair(f"{here}.attention_sublayer.norm", f"{there}.self_attn_layer_norm")
            if side == "decoder":
                attention(f"{here}.cross_attention", f"{there}.encoder_attn")
                pair(f"{here}.cross_attention_sublayer.norm", f"{there}.encoder_attn_layer_norm")
            pair(f"{here}.feed_forward.up", f"{there}.fc1")
            pair(f"{here}.feed_forward.down", f"{there}.fc2")
            pair(f"{here}.feed_forward_sublayer.norm", f"{there}.final_layer_norm")
        if config.embedding_norm:
            pair(f"{side}.embedder.norm", f"model.{side}.layernorm_embedding")
        if config.norm_placement == "pre":
            pair(f"{side}.norm", f"model.{side}.layer_norm")
    return rows
