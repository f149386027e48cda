"""Checkpoints of OpenNMT-py, versions 1 to 3: one ``.pt`` with ``model``, ``generator``, ``vocab`` and ``opt``.

Knows its encoder-decoder Transformers, all of them pre-norm with interleaved sines and cosines. Its sources end without
a token: the padding that stands for ``</s>`` there is attended by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.config import ModelConfig
from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.assembly import Parts, only, splitter
from pellucid.interop.huggingface.table import EmbeddingNames, Row
from pellucid.interop.pickled import Inert, settings_of, tensors_of

__all__ = ["is_opennmt", "opennmt_parts"]

_LUT = "embeddings.make_embedding.emb_luts.0.weight"
_EMBEDDINGS = EmbeddingNames(
    shared=f"encoder.{_LUT}", source=f"encoder.{_LUT}", target=f"decoder.{_LUT}", output="generator.weight"
)
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "swiglu", "gated-gelu": "geglu"}
_ALLOWED = {
    "encoder_type": ("transformer",),
    "decoder_type": ("transformer",),
    "model_type": ("text",),
    "model_task": ("seq2seq",),
    "self_attn_type": ("scaled-dot", "scaled-dot-flash"),
    "max_relative_positions": (0,),
    "pos_ffn_activation_fn": tuple(_ACTIVATIONS),
    "position_encoding_type": ("SinusoidalInterleaved", "SinusoidalConcat"),
    "parallel_residual": (False,),
    "copy_attn": (False,),
    "layer_norm": ("standard", "rms"),
    "generator_function": ("softmax",),
}
_DECODING = {  # of onmt_translate
    "beam_size": 5,
    "stop": "top",
    "beam": "full",
    "length_penalty": "none",
    "max_length": 250,
    "forbidden_tokens": ["<blank>"],
}


def is_opennmt(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's parts are those that OpenNMT-py writes."""
    return {"model", "generator", "vocab", "opt"} <= content.keys()


def opennmt_parts(file: Path, content: Mapping[str, Any]) -> Parts:
    """What a checkpoint of OpenNMT-py holds.

    Raises:
        ModelFolderError: another kind of model, a variant that is not supported, a file of subwords that is missing.
    """
    opt = settings_of(content["opt"])
    only(file, opt, _ALLOWED)
    tensors = tensors_of(file, content["model"], "model")
    generator = tensors_of(file, content["generator"], "generator")
    # Version 3 has a Linear where earlier ones have a Sequential that begins with one.
    tensors |= {f"generator.{name.removeprefix('0.')}": tensor for name, tensor in generator.items()}
    matrix = tensors.get(_EMBEDDINGS.source)
    if matrix is None or matrix.dim() != 2:
        raise ModelFolderError(f"{file}: {_EMBEDDINGS.source} is missing: not the weights of a text Transformer")
    source, target = _tokenizers(file, opt, content["vocab"])
    settings = _model_settings(opt, matrix.shape[1])
    return Parts(
        file, ("OpenNMT-py", "transformer"), tensors, settings, _EMBEDDINGS, _rows, source, target,
        (r"(encoder|decoder)\.embeddings\.make_embedding\.pe\.pe", r"decoder\.transformer_layers\.\d+\.mask"),
        dict(_DECODING), _transforms(opt), tied=bool(opt.get("share_decoder_embeddings")),
    )  # fmt: skip


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _model_settings(opt: Mapping[str, Any], hidden_size: int) -> dict[str, Any]:
    layers = opt.get("layers", 6)
    depths = {side: opt.get(f"{side}_layers") or layers for side in ("enc", "dec")}
    is_added = bool(opt.get("position_encoding"))
    dropout = _first(opt.get("dropout", 0.1))
    return {
        "hidden_size": hidden_size,
        "encoder_layers": depths["enc"],
        "decoder_layers": depths["dec"],
        "num_heads": opt.get("heads", 8),
        "num_kv_heads": opt.get("num_kv") or None,
        "ff_size": opt.get("transformer_ff", 2048),
        "activation": _ACTIVATIONS[opt.get("pos_ffn_activation_fn") or "relu"],
        "norm": "rmsnorm" if opt.get("layer_norm") == "rms" else "layernorm",
        "norm_epsilon": opt.get("norm_eps") or 1e-6,
        "norm_placement": "pre",
        "positions": "sinusoidal" if is_added else "none",
        "sinusoidal_layout": "halves" if opt.get("position_encoding_type") == "SinusoidalConcat" else "interleaved",
        "scale_embeddings": is_added,  # it is the encoding's module that scales
        "output_bias": True,
        "dropout": dropout,
        "attention_dropout": _first(opt.get("attention_dropout", dropout)),
        "ff_dropout": dropout,
    }


def _rows(config: ModelConfig) -> list[Row]:
    rows: list[Row] = [Row("output.bias", ("generator.bias",))]

    def linear(here: str, there: str) -> None:
        # Version 3 leaves biases out where it is told to.
        rows.append(Row(f"{here}.weight", (f"{there}.weight",)))
        rows.append(Row(f"{here}.bias", (f"{there}.bias",), optional=True))

    def norm(here: str, there: str) -> None:
        # The first versions had a norm of their own.
        rows.append(Row(f"{here}.weight", (f"{there}.weight", f"{there}.a_2")))
        if config.norm == "layernorm":
            rows.append(Row(f"{here}.bias", (f"{there}.bias", f"{there}.b_2")))

    def attention(here: str, there: str) -> None:
        for ours, theirs in (
            ("query", "linear_query"), ("key", "linear_keys"), ("value", "linear_values"), ("output", "final_linear"),
        ):  # fmt: skip
            linear(f"{here}.{ours}", f"{there}.{theirs}")

    for side, stack, count in (
        ("encoder", "transformer", config.encoder_layers),
        ("decoder", "transformer_layers", config.decoder_layers),
    ):
        for number in range(count):
            here, there = f"{side}.layers.{number}", f"{side}.{stack}.{number}"
            attention(f"{here}.attention", f"{there}.self_attn")
            if side == "encoder":
                norm(f"{here}.attention_sublayer.norm", f"{there}.layer_norm")
            else:
                norm(f"{here}.attention_sublayer.norm", f"{there}.layer_norm_1")
                attention(f"{here}.cross_attention", f"{there}.context_attn")
                norm(f"{here}.cross_attention_sublayer.norm", f"{there}.layer_norm_2")
            # Its w_1 goes through the activation, its w_3 does not.
            linear(f"{here}.feed_forward.{'gate' if config.gated else 'up'}", f"{there}.feed_forward.w_1")
            if config.gated:
                linear(f"{here}.feed_forward.up", f"{there}.feed_forward.w_3")
            linear(f"{here}.feed_forward.down", f"{there}.feed_forward.w_2")
            norm(f"{here}.feed_forward_sublayer.norm", f"{there}.feed_forward.layer_norm")
        norm(f"{side}.norm", f"{side}.layer_norm")
    return rows


# -- text


def _tokenizers(file: Path, opt: Mapping[str, Any], vocab: Any) -> tuple[Tokenizer, Tokenizer]:
    source_table, target_table = (_entries(file, vocab, side) for side in ("src", "tgt"))
    start = vocab.get("decoder_start_token") if isinstance(vocab, Mapping) else None
    source, target = (
        _splitter(file, opt, side)(table, _specials(file, table, start or "<s>", is_source=side == "src"))
        for side, table in (("src", source_table), ("tgt", target_table))
    )
    return source, target


def _entries(file: Path, vocab: Any, side: str) -> list[str]:
    """The pieces of a side: a list (version 3), or inside objects of torchtext, which are only looked at."""
    entries: Any = None
    if isinstance(vocab, Mapping):  # 2: {side: field of fields}; 3: {side: list}
        entries = vocab.get(side)
        if isinstance(entries, Inert):
            fields = entries.state.get("fields") or [(side, entries)]
            entries = _itos(fields[0][1])
    elif isinstance(vocab, Sequence):  # 1: [(side, vocabulary)]
        entries = next((_itos(found) for name, found in vocab if name == side), None)
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ModelFolderError(f"{file}: its vocabulary has no list of {side} pieces that this reader understands")
    return entries


def _itos(field: Any) -> Any:
    state = getattr(field, "state", {})
    inner = state.get("vocab")
    return state.get("itos") if inner is None else _itos(inner)


def _specials(file: Path, table: Sequence[str], start: str, *, is_source: bool) -> Specials:
    numbers = {piece: number for number, piece in reversed(list(enumerate(table)))}
    pad, unk, bos, eos = (numbers.get(name) for name in ("<blank>", "<unk>", start, "</s>"))
    if is_source and pad is not None and unk is not None:
        hidden = tuple(number for number in (bos, eos) if number is not None)
        return Specials(pad, unk, pad, pad, hidden=hidden)
    if pad is None or unk is None or bos is None or eos is None:
        raise ModelFolderError(f"{file}: its vocabulary lacks one of <blank>, <unk>, {start}, </s>")
    return Specials(pad, unk, bos, eos)


def _transforms(opt: Mapping[str, Any]) -> list[str]:
    """What is done to text there that is not done here."""
    known = {"sentencepiece", "bpe", "filtertoolong", "tokendrop", "tokenmask", "switchout", "bart"}  # or in training
    found = list(opt.get("transforms") or ())
    for corpus in settings_of(opt.get("data")).values():
        found += settings_of(corpus).get("transforms") or ()
    return [f"transform {name}" for name in dict.fromkeys(found) if name not in known]


def _splitter(file: Path, opt: Mapping[str, Any], side: str) -> Any:
    transforms = [*(opt.get("transforms") or ())]
    for corpus in settings_of(opt.get("data")).values():
        transforms += settings_of(corpus).get("transforms") or ()
    kind = "sentencepiece" if "sentencepiece" in transforms else "codes" if "bpe" in transforms else "words"
    if kind == "words":
        return splitter(file, kind)
    model = opt.get(f"{side}_subword_model") or (opt.get("src_subword_model") if opt.get("share_vocab") else None)
    return splitter(file, kind, file.parent / Path(str(model)).name if model else None)
