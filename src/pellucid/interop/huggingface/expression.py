"""Which family of checkpoints can hold a model of ours, and the model as that family wants it.

One table says what each family can express; nothing is approximated. What is only written in another way is rewritten:
biases and a bias on the logits that are not there become 0, and sines and cosines in turn become sines, then cosines,
by giving the dimensions of the residual stream another order, in every matrix alike. Opens no file.
Shapes: M model size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.errors import ConfigError
from pellucid.interop.huggingface.bart import BART, MBART
from pellucid.interop.huggingface.family import ACTIVATIONS, Family
from pellucid.interop.huggingface.m2m100 import M2M100
from pellucid.interop.huggingface.marian import MARIAN, PEGASUS
from pellucid.interop.huggingface.t5 import T5
from pellucid.model.positions import sinusoidal_table
from pellucid.model.transformer import EncoderDecoder

__all__ = ["TARGETS", "Target", "choose_target", "rewritten"]

SINUSOIDAL_LENGTH = 1024
"""Positions that transformers' models with sines and cosines are given: they stop at their table."""

_PLAIN = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
_GATED = {"reglu": "relu", "geglu": "gelu_python", "geglu_tanh": "gelu", "swiglu": "silu"}  # T5: gated-gelu is tanh's
assert set(_PLAIN.values()) <= set(ACTIVATIONS)


@dataclass(frozen=True, slots=True)
class Target:
    """What one ``model_type`` can hold.

    Attributes:
        model_type, architecture: what config.json says.
        family: its table of weights.
        allowed: settings and the values that they may have; others are free.
        document: entries of config.json for a model that fits.
        rewrite: settings of the model as the family wants it.
        tables: tensors that the checkpoint has beside the model's parameters.
    """

    model_type: str
    architecture: str
    family: Family
    allowed: Mapping[str, tuple[Any, ...]]
    document: Callable[[ModelConfig], dict[str, Any]]
    rewrite: Mapping[str, Any] = field(default_factory=dict)
    tables: Callable[[ModelConfig], dict[str, Tensor]] = lambda config: {}

    def obstacles(self, config: ModelConfig, pad_id: int) -> dict[str, str]:
        """Settings that the family cannot express, and what it needs in their place."""
        found = {
            name: " or ".join(_written(value) for value in values)
            for name, values in self.allowed.items()
            if getattr(config, name) not in values
        }
        for name, heads in (("num_kv_heads", config.self_kv_heads), ("cross_num_kv_heads", config.cross_kv_heads)):
            if heads != config.num_heads:
                found[name] = str(config.num_heads)
        if self.family is not T5 and config.head_size * config.num_heads != config.hidden_size:
            found["head_dim"] = "hidden_size / num_heads"
        if self.family is M2M100 and config.first_position != pad_id + 1:
            found["first_position"] = str(pad_id + 1)
        return found


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


_SINES = {"positions": ("sinusoidal",), "sinusoidal_layout": ("halves", "interleaved"), "first_position": (0,)}
_LEARNED = {"positions": ("learned",), "embedding_norm": (True,)}
_ONE_VOCABULARY = {"tied_embeddings": ("three", "inputs")}
_COMMON: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "norm_epsilon": (None, 1e-5),
    "activation": tuple(_PLAIN),
    "scale_attention": (True,),
    "scale_output": (False,),
}
_WITH_BIAS = {"bias": True, "output_bias": True}


def _fairseq(config: ModelConfig) -> dict[str, Any]:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("attention_heads", config.num_heads), ("ffn_dim", config.ff_size))
    }
    learned = config.positions == "learned"
    return {
        "d_model": config.hidden_size,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "num_hidden_layers": config.encoder_layers,
        **sides,
        "activation_function": _PLAIN[config.activation],
        "scale_embedding": config.scale_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.ff_dropout,
        "max_position_embeddings": config.max_positions if learned else SINUSOIDAL_LENGTH,
        "tie_word_embeddings": config.tied_embeddings in ("three", "two"),
    }


def _marian(config: ModelConfig) -> dict[str, Any]:
    return {**_fairseq(config), "share_encoder_decoder_embeddings": config.one_vocabulary}


def _t5(config: ModelConfig) -> dict[str, Any]:
    function = f"gated-{_GATED[config.activation]}" if config.gated else _PLAIN[config.activation]
    return {
        "d_model": config.hidden_size,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.num_heads,
        "d_kv": config.head_size,
        "d_ff": config.ff_size,
        "feed_forward_proj": function,
        "layer_norm_epsilon": config.norm_epsilon or 1e-6,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "dropout_rate": config.dropout,
        "tie_word_embeddings": config.tied_embeddings == "three",
    }


def _sine_tables(config: ModelConfig) -> dict[str, Tensor]:
    # Older releases of transformers keep them in the file; the same numbers are made where a file leaves them out.
    table = sinusoidal_table(0, SINUSOIDAL_LENGTH, config.hidden_size, "halves")
    return {f"model.{side}.embed_positions.weight": table.clone() for side in ("encoder", "decoder")}


_T5_ALLOWED: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm",),
    "norm_placement": ("pre",),
    "positions": ("relative",),
    "scale_embeddings": (False,),
    "scale_attention": (False,),
    "bias": (False,),
    "output_bias": (False,),
    "embedding_norm": (False,),
}

TARGETS = (
    Target(
        "marian", "MarianMTModel", MARIAN,
        {**_COMMON, **_SINES, "norm_placement": ("post",), "embedding_norm": (False,)},
        _marian, {**_WITH_BIAS, "sinusoidal_layout": "halves"}, _sine_tables,
    ),
    Target(
        "pegasus", "PegasusForConditionalGeneration", PEGASUS,
        {**_COMMON, **_SINES, **_ONE_VOCABULARY, "norm_placement": ("pre",), "embedding_norm": (False,)},
        _fairseq, {**_WITH_BIAS, "sinusoidal_layout": "halves"}, _sine_tables,
    ),
    Target(
        "bart", "BartForConditionalGeneration", BART,
        {**_COMMON, **_LEARNED, **_ONE_VOCABULARY, "norm_placement": ("post",)}, _fairseq, _WITH_BIAS,
    ),
    Target(
        "mbart", "MBartForConditionalGeneration", MBART,
        {**_COMMON, **_LEARNED, **_ONE_VOCABULARY, "norm_placement": ("pre",)}, _fairseq, _WITH_BIAS,
    ),
    Target(
        "m2m_100", "M2M100ForConditionalGeneration", M2M100,
        {
            **_COMMON, **_ONE_VOCABULARY, "positions": ("sinusoidal",), "sinusoidal_layout": ("fairseq",),
            "norm_placement": ("pre",), "embedding_norm": (False,), "output_bias": (False,),
        },
        _fairseq, {"bias": True},
    ),
    Target(
        "t5", "T5ForConditionalGeneration", T5,
        {**_T5_ALLOWED, "tied_embeddings": ("three",), "scale_output": (True,)}, _t5,
    ),
    Target(
        "t5", "T5ForConditionalGeneration", T5,
        {**_T5_ALLOWED, "tied_embeddings": ("inputs",), "scale_output": (False,)}, _t5,
    ),
)  # fmt: skip
"""Every family that is written, the first that fits first."""


def choose_target(config: ModelConfig, pad_id: int) -> Target:
    """The family that can hold a model of this architecture.

    Args:
        config: of the model.
        pad_id: number of the padding token, from which M2M-100 counts its positions.

    Raises:
        ConfigError: there is none; the message names each setting that the nearest family cannot express.
    """
    found = [(target, target.obstacles(config, pad_id)) for target in TARGETS]
    nearest, obstacles = min(found, key=lambda pair: len(pair[1]))
    if not obstacles:
        return nearest
    given = {
        "num_kv_heads": config.self_kv_heads,
        "cross_num_kv_heads": config.cross_kv_heads,
        "head_dim": config.head_size,
    }
    parts = [
        f"model.{name}: {_written(given.get(name, getattr(config, name)))} (it needs {needed})"
        for name, needed in obstacles.items()
    ]
    raise ConfigError(
        f"no family of Hugging Face's can hold this model; the nearest, {nearest.family.title}, cannot express "
        f"{', '.join(parts)}"
    )


@torch.no_grad()
def rewritten(model: EncoderDecoder, target: Target) -> EncoderDecoder:
    """A model that computes the same, as the family wants it; it shares nothing with ``model``."""
    config = ModelConfig.model_validate({**model.config.model_dump(), **target.rewrite})
    with torch.random.fork_rng(devices=[]):
        new = EncoderDecoder(config, model.source_vocab_size, model.target_vocab_size)
    reorder = config.sinusoidal_layout != model.config.sinusoidal_layout
    size = config.hidden_size
    order = torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))
    old = dict(model.named_parameters())
    for name, parameter in new.named_parameters():
        if name not in old:
            parameter.zero_()
            continue
        tensor, axis = old[name].cpu(), _model_axis(name)
        parameter.copy_(tensor.index_select(axis, order) if reorder and axis is not None else tensor)
    return new.eval()


def _model_axis(name: str) -> int | None:
    """The axis of a parameter that runs over the residual stream, M; None for one over heads, F or V alone."""
    module, _, kind = name.rpartition(".")
    if module.endswith((".embedding", ".query", ".key", ".value", ".up", ".gate")) or module == "output":
        return 1 if kind == "weight" else None
    return 0  # norms, and the matrices that write into the stream
