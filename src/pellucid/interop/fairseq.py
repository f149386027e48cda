"""Checkpoints of fairseq: ``checkpoint_best.pt`` with its dictionaries ``dict.LANG.txt`` and what splits its text.

Knows the Transformers of fairseq's translation task (post- and pre-norm, sinusoidal and learned positions), in the
names of its versions since 2018; transformers' BART, Marian and others descend from this layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.assembly import Parts, Splitter, only, splitter
from pellucid.interop.huggingface.family import fairseq_rows
from pellucid.interop.huggingface.table import POSITION_ROWS, EmbeddingNames, Row
from pellucid.interop.pickled import settings_of, tensors_of

__all__ = ["fairseq_parts", "is_fairseq"]

# What fairseq's base architecture means where a checkpoint leaves something out.
_DEFAULTS = {
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_normalize_before": False,
    "encoder_learned_pos": False,
    "decoder_layers": 6,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "activation_fn": "relu",
    "no_scale_embedding": False,
    "layernorm_embedding": False,
    "no_token_positional_embeddings": False,
    "max_source_positions": 1024,
    "max_target_positions": 1024,
}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh", "swish": "silu"}
_NO: tuple[Any, ...] = (False, 0, "", [])
_ALLOWED = {
    "activation_fn": tuple(_ACTIVATIONS),
    "adaptive_softmax_cutoff": _NO,
    "adaptive_input": _NO,
    "cross_self_attention": _NO,
    "no_cross_attention": _NO,
    "no_decoder_final_norm": _NO,
    "encoder_layers_to_keep": _NO,
    "decoder_layers_to_keep": _NO,
    "base_layers": _NO,
    "encoder_recurrent_stacking": (0, 1),
    "decoder_recurrent_stacking": (0, 1),
    "left_pad_target": _NO,
}
_EMBEDDINGS = EmbeddingNames(
    shared="encoder.embed_tokens.weight",
    source="encoder.embed_tokens.weight",
    target="decoder.embed_tokens.weight",
    output="decoder.output_projection.weight",
)
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_IGNORED = (
    r"(encoder|decoder)\.version",
    r"(encoder|decoder)\.embed_positions\._float_tensor",
    r"(encoder|decoder)\.embed_positions\.weights",
)
_DECODING = {  # fairseq-generate's own defaults
    "beam_size": 5,
    "stop": "first_k",
    "beam": "full",
    "length_penalty": "power",
    "length_alpha": 1.0,
    "max_length": 200,
    "min_length": 1,
    "forbidden_tokens": ["<pad>"],
}


def is_fairseq(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's parts are those that fairseq writes."""
    return "model" in content and ("args" in content or "cfg" in content)


def fairseq_parts(file: Path, content: Mapping[str, Any]) -> Parts:
    """What a checkpoint of fairseq holds, and the files beside it.

    Raises:
        ModelFolderError: another kind of model, a variant that is not supported, a dictionary or a file of subwords
            that is not there.
    """
    args, task, subwords = _settings(content)
    architecture = str(args.get("arch") or args.get("_name") or "transformer")
    if not re.match(r"transformer(?!_lm)", architecture):
        raise ModelFolderError(
            f"{file}: fairseq models of architecture {architecture!r} are not supported; "
            "supported: the encoder-decoders transformer, transformer_*"
        )
    tensors = _renamed(tensors_of(file, content["model"], "model"))
    settings = _model_settings(file, args)
    source, target, unmapped = _tokenizers(file, args | task, subwords)

    def rows(config: ModelConfig) -> list[Row]:
        found = [
            Row(r.here, tuple(n.removeprefix("model.") for n in r.there), r.transform) for r in fairseq_rows(config)
        ]
        if config.positions == "learned":
            found += [
                Row(f"{side}.embedder.positions.table", (f"{side}.embed_positions.weight",), POSITION_ROWS)
                for side in ("encoder", "decoder")
            ]
        return found

    return Parts(
        file, ("fairseq", architecture), tensors, settings, _EMBEDDINGS, rows, source, target, _IGNORED,
        dict(_DECODING), unmapped, tied=bool(args.get("share_decoder_input_output_embed")),
    )  # fmt: skip


def _settings(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of the model, of the task, and of what prepares text; older versions keep all in one Namespace."""
    if args := settings_of(content.get("args")):
        return args, args, args
    config = settings_of(content.get("cfg"))
    bpe, tokenizer = settings_of(config.get("bpe")), settings_of(config.get("tokenizer"))
    return (
        settings_of(config.get("model")),
        settings_of(config.get("task")),
        {"bpe": bpe.get("_name"), "tokenizer": tokenizer.get("_name")},
    )


def _model_settings(file: Path, args: Mapping[str, Any]) -> dict[str, Any]:
    c = {**_DEFAULTS, **{name: value for name, value in args.items() if value is not None}}
    only(file, c, _ALLOWED)
    for what in ("embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos"):
        sides = c[f"encoder_{what}"], c.get(f"decoder_{what}", c[f"encoder_{what}"])
        if len(set(sides)) > 1:
            raise ModelFolderError(
                f"{file}: encoder_{what} ({sides[0]}) and decoder_{what} ({sides[1]}) differ: that is not supported"
            )
    for what in ("decoder_input_dim", "decoder_output_dim"):
        if c.get(what, c["encoder_embed_dim"]) != c["encoder_embed_dim"]:
            raise ModelFolderError(f"{file}: {what} ({c[what]}) differs from the model's: that is not supported")
    positions = "learned" if c["encoder_learned_pos"] else "sinusoidal"
    if c["no_token_positional_embeddings"]:
        positions = "none"
    if positions == "learned" and c["max_source_positions"] != c["max_target_positions"]:
        raise ModelFolderError(
            f"{file}: learned tables of {c['max_source_positions']} and {c['max_target_positions']} positions: "
            "tables of different lengths are not supported"
        )
    return {
        "hidden_size": c["encoder_embed_dim"],
        "encoder_layers": c["encoder_layers"],
        "decoder_layers": c["decoder_layers"],
        "num_heads": c["encoder_attention_heads"],
        "ff_size": c["encoder_ffn_embed_dim"],
        "activation": _ACTIVATIONS[c["activation_fn"]],
        "norm_placement": "pre" if c["encoder_normalize_before"] else "post",
        "positions": positions,
        "sinusoidal_layout": "fairseq",
        "first_position": 2,  # behind the number of <pad>, 1
        "max_positions": c["max_source_positions"],
        "scale_embeddings": not c["no_scale_embedding"],
        "embedding_norm": bool(c["layernorm_embedding"]),
        "dropout": c["dropout"],
        "attention_dropout": c["attention_dropout"],
        "ff_dropout": c["activation_dropout"],
    }


_OLD_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of today's fairseq, which renames those of older versions when it reads them."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if norm := re.fullmatch(r"(encoder|decoder)\.(layers\.\d+)\.layer_norms\.(\d)\.(\w+)", name):
            named[f"{norm[1]}.{norm[2]}.{_OLD_NORMS[norm[1]][int(norm[3])]}.{norm[4]}"] = tensor
        elif joined := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                named[f"{joined[1]}.{part}_proj.{joined[2]}"] = rows
        elif name == "decoder.embed_out":
            named["decoder.output_projection.weight"] = tensor
        else:
            named[name] = tensor
    return named


# -- text


def _tokenizers(
    file: Path, settings: Mapping[str, Any], subwords: Mapping[str, Any]
) -> tuple[Tokenizer, Tokenizer, list[str]]:
    languages = [settings.get("source_lang"), settings.get("target_lang")]
    paths = [_dictionary(file, language, side) for language, side in zip(languages, ("source", "target"), strict=True)]
    tables = [_read_dictionary(path) for path in paths]
    specials = Specials(pad=1, unk=3, bos=2, eos=2, hidden=(0,))  # the decoder reads </s> first
    splitters = [_splitter(file, language, table, subwords) for language, table in zip(languages, tables, strict=True)]
    source = splitters[0](tables[0], specials)
    target = splitters[1](tables[1], specials)
    name = subwords.get("tokenizer")
    unmapped = [] if name in (None, "space") else [f"tokenizer = {name} (text goes to the subwords as it is)"]
    return source, source if source.fingerprint == target.fingerprint else target, unmapped


def _dictionary(file: Path, language: Any, side: str) -> Path:
    folder = file.parent
    wanted = folder / (f"dict.{language}.txt" if language else "dict.txt")
    for path in (wanted, folder / "dict.txt"):
        if path.is_file():
            return path
    raise ModelFolderError(f"{wanted}: the {side} dictionary is missing; put it beside {file.name}")


def _read_dictionary(path: Path) -> list[str]:
    """The symbols in the order of their numbers: four special ones, then ``symbol count`` a line."""
    symbols = list(_SPECIALS)
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise ModelFolderError(f"{path}: not UTF-8 text; the file is damaged: get it again") from None
    for number, line in enumerate(lines, 1):
        line = line.rstrip().removesuffix(" #fairseq:overwrite")
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdigit():
            raise ModelFolderError(f"{path}, line {number}: expected a symbol and its count, found {line!r}")
        symbols.append(symbol)
    return symbols


def _splitter(file: Path, language: Any, table: list[str], subwords: Mapping[str, Any]) -> Splitter:
    """What splits text into a dictionary's symbols: what was said, or what the symbols look like."""
    kind = {"sentencepiece": "sentencepiece", "subword_nmt": "codes", "fastbpe": "codes"}.get(str(subwords.get("bpe")))
    if kind is None:
        share = [sum(match) for match in zip(*((s.startswith("▁"), s.endswith("@@")) for s in table), strict=True)]
        kind = "sentencepiece" if share[0] > len(table) / 20 else "codes" if share[1] > len(table) / 20 else "words"
    if kind == "words":
        return splitter(file, kind)
    is_one = (lambda p: p.suffix == ".model") if kind == "sentencepiece" else _is_codes
    found = sorted(path for path in file.parent.iterdir() if path.is_file() and is_one(path))
    own = [path for path in found if language and str(language) in path.name.split(".")]
    chosen = own or found
    if len(chosen) > 1:
        raise ModelFolderError(
            f"{file.parent}: which of {', '.join(path.name for path in chosen)} splits the text of the dictionary "
            f"dict.{language}.txt is not clear: leave one, or put the language in its name (codes.{language})"
        )
    return splitter(file, kind, chosen[0] if chosen else None)


def _is_codes(path: Path) -> bool:
    return any(part in ("bpecodes", "codes", "code") for part in path.name.split("."))
