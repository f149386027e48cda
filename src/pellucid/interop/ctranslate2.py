"""A model of ours as a CTranslate2 folder, by the specification and converter classes of the package ``ctranslate2``.

What CTranslate2's format cannot express is refused, nothing is approximated. Beside the model go its SentencePiece
models (``source.spm``, ``target.spm``): CTranslate2 translates tokens, text is its user's business.
Shapes: M model size, G key/value heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.foreign_tokenizers import TableTokenizer
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import SentencePieceTokenizer, Tokenizer
from pellucid.errors import ConfigError, MissingExtraError
from pellucid.files import replace_folder
from pellucid.interop.huggingface.tokenizers_out import check_rules, piece_list
from pellucid.model.attention import Attention
from pellucid.model.layers import FeedForward
from pellucid.model.transformer import Decoder, Encoder, EncoderDecoder

__all__ = ["export_ctranslate2"]

POSITIONS = 2048
"""Rows of a table of sines and cosines; CTranslate2 refuses longer sequences, as with its own converters."""

_ACTIVATIONS = {
    "relu": "RELU",
    "reglu": "RELU",
    "gelu": "GELU",
    "geglu": "GELU",
    "gelu_tanh": "GELUTanh",
    "geglu_tanh": "GELUTanh",
    "silu": "SWISH",
    "swiglu": "SWISH",
}


def export_ctranslate2(
    folder: Path,
    model: EncoderDecoder,
    source: Tokenizer,
    target: Tokenizer,
    decoding: DecodingConfig,
    rules: TextRules | None = None,
    quantization: str | None = None,
) -> list[str]:
    """Write a folder that ``ctranslate2.Translator`` loads, or nothing at all.

    Args:
        folder: is made, or replaced as a whole.
        model: the weights.
        source, target: its tokenizers, for the vocabularies.
        decoding: CTranslate2's folders hold no generation settings; those that differ from its defaults are named.
        rules: for text in front of the tokenizers; there is no place for any.
        quantization: of the weights, as CTranslate2's converters name it; None: float32.

    Returns:
        Settings that have to be given to ``translate_batch``, as sentences.

    Raises:
        ConfigError: an architecture, a vocabulary or a quantisation that CTranslate2 does not have.
        MissingExtraError: ctranslate2 is not installed.
    """
    try:
        import ctranslate2  # type: ignore[import-untyped]
        from ctranslate2.converters.converter import Converter  # type: ignore[import-untyped]
        from ctranslate2.specs.model_spec import ACCEPTED_MODEL_TYPES  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError("ctranslate2", "writing a model for CTranslate2") from None
    if quantization is not None and quantization not in ACCEPTED_MODEL_TYPES:
        raise ConfigError(f"--quantization {quantization}: CTranslate2 has {', '.join(ACCEPTED_MODEL_TYPES)}")
    check_rules(rules or TextRules())
    _check(model.config)
    vocabularies = piece_list(source), piece_list(target)

    class PellucidConverter(Converter):  # type: ignore[misc, unused-ignore]
        def _load(self) -> Any:
            spec = _specification(ctranslate2.specs, model)
            spec.register_source_vocabulary(vocabularies[0])
            spec.register_target_vocabulary(vocabularies[1])
            _configure(spec.config, model.config, source, target)
            return spec

    with replace_folder(folder) as temporary:
        PellucidConverter().convert(str(temporary), quantization=quantization or "float32", force=True)
        for name, tokenizer in (("source.spm", source), ("target.spm", target)):
            if isinstance(tokenizer, (SentencePieceTokenizer, TableTokenizer)):
                (temporary / name).write_bytes(tokenizer.model)
    return _left(decoding, target)


def _check(config: ModelConfig) -> None:
    """Refuse what the format does not have.

    Raises:
        ConfigError: naming each such setting.
    """
    found = []
    if config.cross_kv_heads != config.self_kv_heads:
        found.append(
            f"model.cross_num_kv_heads: {config.cross_kv_heads} (it needs the same as model.num_kv_heads, "
            f"{config.self_kv_heads})"
        )
    if config.norm == "rmsnorm" and config.embedding_norm:
        found.append("model.embedding_norm: true with model.norm: rmsnorm (it needs layernorm)")
    if found:
        raise ConfigError(f"CTranslate2's format cannot hold this model; it cannot express {', '.join(found)}")


def _configure(config: Any, model: ModelConfig, source: Tokenizer, target: Tokenizer) -> None:
    unknown, start, end = target.pieces([target.unk_id, target.bos_id, target.eos_id])
    config.unk_token, config.bos_token, config.eos_token = unknown, start, end
    config.decoder_start_token = start
    config.add_source_bos = False
    # What stands around a source is </s> alone, or, with languages, the caller's business.
    config.add_source_eos = not (source.prefix_ids or source.suffix_ids) and source.pieces([source.eos_id]) == [end]
    config.layer_norm_epsilon = model.norm_epsilon or (1e-6 if model.norm == "rmsnorm" else 1e-5)


def _left(decoding: DecodingConfig, target: Tokenizer) -> list[str]:
    beams = [f"beam_size={decoding.beam_size}"] if decoding.beam_size != 2 else []
    penalty = {"average": 1.0, "power": decoding.length_alpha, "none": 0.0}.get(decoding.length_penalty)
    parts = [*beams, *([f"length_penalty={penalty}"] if penalty not in (None, 1.0) else [])]
    sentences = [f"decoding: give translate_batch {', '.join(parts)}"] if parts else []
    if penalty is None:
        sentences.append(f"length_penalty = {decoding.length_penalty}: CTranslate2 divides by length^length_penalty")
    if target.suppressed_ids:
        pieces = [[piece] for piece in target.pieces(target.suppressed_ids)]
        sentences.append(f"tokens that are never generated here: suppress_sequences={pieces}")
    return sentences


# -- weights


def _specification(specs: Any, model: EncoderDecoder) -> Any:
    """The whole model in CTranslate2's terms."""
    c = model.config
    heads = {} if c.self_kv_heads == c.num_heads else {"num_heads_kv": c.self_kv_heads}
    common: dict[str, Any] = dict(
        pre_norm=c.norm_placement == "pre",
        activation=getattr(specs.common_spec.Activation, _ACTIVATIONS[c.activation]),
        layernorm_embedding=c.embedding_norm,
        relative_attention_bias=c.positions == "relative",
        ffn_glu=c.gated,
        rms_norm=c.norm == "rmsnorm",
        head_dim=c.head_size,
        **heads,
    )
    if c.positions == "rotary":
        common |= {"rotary_dim": 0, "rotary_interleave": False}
    spec = specs.transformer_spec
    encoder = spec.TransformerEncoderSpec(c.encoder_layers, c.num_heads, **common)
    decoder = spec.TransformerDecoderSpec(c.decoder_layers, c.num_heads, **common)
    whole = spec.TransformerSpec(encoder, decoder)
    _stack(encoder, model.encoder, c)
    _stack(decoder, model.decoder, c)
    decoder.projection.weight = _array(model.output.weight)
    if model.output.bias is not None:
        decoder.projection.bias = _array(model.output.bias)
    if c.scale_output:
        decoder.scale_outputs = np.dtype("float32").type(c.hidden_size**-0.5)
    return whole


def _stack(spec: Any, stack: Encoder | Decoder, c: ModelConfig) -> None:
    embedder = stack.embedder
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = _array(embedder.embedding.weight)
    spec.scale_embeddings = c.scale_embeddings
    if c.embedding_norm:
        _norm(spec.layernorm_embedding, embedder.norm)
    if hasattr(spec, "position_encodings") and c.positions == "rotary":
        del spec.position_encodings
    elif hasattr(spec, "position_encodings"):
        vectors = embedder.positions.vectors(c.max_positions if c.positions == "learned" else POSITIONS)
        table = torch.zeros(POSITIONS, c.hidden_size) if vectors is None else vectors
        spec.position_encodings.encodings = _array(table)
    if c.norm_placement == "pre":
        _norm(spec.layer_norm, stack.norm)
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        part: Any = layer
        _attention(layer_spec.self_attention, part.attention, c, alone=True)
        _norm(layer_spec.self_attention.layer_norm, part.attention_sublayer.norm)
        if c.positions == "relative":
            layer_spec.self_attention.relative_attention_bias = _array(cast(torch.Tensor, embedder.positions.table))
            layer_spec.self_attention.relative_attention_max_distance = np.dtype("int32").type(c.relative_max_distance)
        if isinstance(stack, Decoder):
            _attention(layer_spec.attention, part.cross_attention, c, alone=False)
            _norm(layer_spec.attention.layer_norm, part.cross_attention_sublayer.norm)
        _feed_forward(layer_spec.ffn, part.feed_forward)
        _norm(layer_spec.ffn.layer_norm, part.feed_forward_sublayer.norm)


def _attention(spec: Any, attention: Attention, c: ModelConfig, *, alone: bool) -> None:
    """Projections joined as CTranslate2 wants them: query, key and value in one; or key and value in one."""
    fused = [attention.query, attention.key, attention.value]
    if not alone:
        _linear(spec.linear[0], attention.query)
        fused = fused[1:]
    _linear(spec.linear[0 if alone else 1], *fused)
    _linear(spec.linear[-1], attention.output)
    if not c.scale_attention:
        spec.queries_scale = 1.0


def _feed_forward(spec: Any, block: FeedForward) -> None:
    if block.gate is None:
        _linear(spec.linear_0, block.up)
    else:
        _linear(spec.linear_0, block.gate)
        _linear(spec.linear_0_noact, block.up)
    _linear(spec.linear_1, block.down)


def _linear(spec: Any, *layers: nn.Linear) -> None:
    spec.weight = np.concatenate([_array(layer.weight) for layer in layers])
    if layers[0].bias is not None:
        spec.bias = np.concatenate([_array(layer.bias) for layer in layers])


def _norm(spec: Any, norm: Any) -> None:
    spec.gamma = _array(norm.weight)
    if hasattr(spec, "beta"):
        spec.beta = _array(norm.bias)


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to("cpu", torch.float32).numpy()
    return array
