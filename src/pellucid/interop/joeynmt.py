"""Checkpoints of JoeyNMT: a folder with ``best.ckpt``, ``config.yaml`` and the vocabularies.

Knows its Transformers: pre-norm in version 1, post-norm or pre-norm in version 2, interleaved sines and cosines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pellucid.config import ModelConfig
from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.assembly import Parts, only, splitter
from pellucid.interop.huggingface.table import EmbeddingNames, Row
from pellucid.interop.pickled import tensors_of

__all__ = ["CONFIG_FILE", "is_joeynmt", "joeynmt_parts"]

CONFIG_FILE = "config.yaml"
_EMBEDDINGS = EmbeddingNames(
    shared="src_embed.lut.weight",
    source="src_embed.lut.weight",
    target="trg_embed.lut.weight",
    output="decoder.output_layer.weight",
)
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
_ALLOWED = {
    "type": ("transformer",),
    "layer_norm": ("pre", "post"),
    "alpha": (1.0,),
    "activation": tuple(_ACTIVATIONS),
}


def is_joeynmt(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's parts are those that JoeyNMT writes."""
    return "model_state" in content


def joeynmt_parts(file: Path, content: Mapping[str, Any]) -> Parts:
    """What a checkpoint of JoeyNMT holds, and the files beside it.

    Raises:
        ModelFolderError: a recurrent model, a variant that is not supported, a file that is missing or damaged.
    """
    path = file.parent / CONFIG_FILE
    config = _read_config(path)
    tensors = tensors_of(file, content["model_state"], "model_state")
    model, data = _section(config, "model"), _section(config, "data")
    settings = _model_settings(path, model, "encoder.layer_norm.weight" in tensors)
    source, target = _tokenizers(file, data)
    unmapped = [
        f"data.{side}.{name} = {value} (text goes to the tokenizer as it is)"
        for side in ("src", "trg")
        for name, value in _processing(_side(data, side)).items()
    ]
    return Parts(
        file, ("JoeyNMT", "transformer"), tensors, settings, _EMBEDDINGS, _rows, source, target,
        (r"(encoder|decoder)\.pe\.pe",), _decoding(_section(config, "testing", {})), unmapped,
        tied=bool(model.get("tied_softmax")),
    )  # fmt: skip


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelFolderError(f"{path}: the file of settings is missing; put it beside the checkpoint")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ModelFolderError(f"{path}: not valid YAML; the file is damaged: get it again") from None
    if not isinstance(config, dict):
        raise ModelFolderError(f"{path}: expected settings by name, found {type(config).__name__}")
    return {**config, "": path}


def _section(config: Mapping[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    section = config.get(name, default)
    if not isinstance(section, dict):
        raise ModelFolderError(f"{config.get('', CONFIG_FILE)}: it has no section {name!r}: not a config of JoeyNMT")
    return {**section, "": config.get("")}


def _model_settings(path: Path, model: Mapping[str, Any], has_final_norm: bool) -> dict[str, Any]:
    sides = {side: _section(model, side) for side in ("encoder", "decoder")}
    for side in sides.values():
        # Version 1 has no setting for where norms stand.
        side.setdefault("layer_norm", "pre" if has_final_norm else "post")
        side.setdefault("type", "recurrent")
        only(path, side, _ALLOWED)
    for name, default in (
        ("hidden_size", 512), ("num_heads", 8), ("ff_size", 2048), ("layer_norm", None), ("activation", "relu"),
    ):  # fmt: skip
        values = [side.setdefault(name, default) for side in sides.values()]
        if len(set(values)) > 1:
            raise ModelFolderError(
                f"{path}: {name} of the encoder ({values[0]}) and of the decoder ({values[1]}) differ: "
                "that is not supported"
            )
    encoder = sides["encoder"]
    scales = [bool(_section(side, "embeddings", {}).get("scale")) for side in sides.values()]
    if scales[0] != scales[1] and not model.get("tied_embeddings"):
        raise ModelFolderError(f"{path}: embeddings that are scaled on one side only are not supported")
    return {
        "hidden_size": encoder["hidden_size"],
        "encoder_layers": encoder.get("num_layers", 8),
        "decoder_layers": sides["decoder"].get("num_layers", 8),
        "num_heads": encoder["num_heads"],
        "ff_size": encoder["ff_size"],
        "activation": _ACTIVATIONS[encoder["activation"]],
        "norm_epsilon": 1e-6,
        "norm_placement": encoder["layer_norm"],
        "scale_embeddings": scales[0],
        "dropout": encoder.get("dropout", 0.1),
        "attention_dropout": encoder.get("dropout", 0.1),
        "ff_dropout": encoder.get("dropout", 0.1),
    }


def _rows(config: ModelConfig) -> list[Row]:
    rows: list[Row] = []

    def pair(here: str, there: str) -> None:
        rows.extend(Row(f"{here}.{part}", (f"{there}.{part}",)) for part in ("weight", "bias"))

    def attention(here: str, there: str) -> None:
        for ours, theirs in (
            ("query", "q_layer"), ("key", "k_layer"), ("value", "v_layer"), ("output", "output_layer"),
        ):  # fmt: skip
            pair(f"{here}.{ours}", f"{there}.{theirs}")

    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(count):
            layer = f"{side}.layers.{number}"
            if side == "encoder":
                attention(f"{layer}.attention", f"{layer}.src_src_att")
                pair(f"{layer}.attention_sublayer.norm", f"{layer}.layer_norm")
            else:
                attention(f"{layer}.attention", f"{layer}.trg_trg_att")
                pair(f"{layer}.attention_sublayer.norm", f"{layer}.x_layer_norm")
                attention(f"{layer}.cross_attention", f"{layer}.src_trg_att")
                pair(f"{layer}.cross_attention_sublayer.norm", f"{layer}.dec_layer_norm")
            pair(f"{layer}.feed_forward.up", f"{layer}.feed_forward.pwff_layer.0")
            pair(f"{layer}.feed_forward.down", f"{layer}.feed_forward.pwff_layer.3")
            pair(f"{layer}.feed_forward_sublayer.norm", f"{layer}.feed_forward.layer_norm")
        if config.norm_placement == "pre":
            pair(f"{side}.norm", f"{side}.layer_norm")
    return rows


def _decoding(testing: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the checkpoint's config tests with."""
    alpha = testing.get("beam_alpha", testing.get("alpha", -1))
    settings: dict[str, Any] = {"beam_size": max(1, testing.get("beam_size", 1)), "stop": "top", "beam": "full"}
    settings |= {"length_penalty": "gnmt", "length_alpha": alpha} if alpha > 0 else {"length_penalty": "none"}
    if testing.get("max_output_length", -1) > 0:
        settings["max_length"] = testing["max_output_length"]
    if testing.get("no_repeat_ngram_size", -1) > 0:
        settings["no_repeat_ngram"] = testing["no_repeat_ngram_size"]
    return settings


# -- text


def _side(data: Mapping[str, Any], side: str) -> dict[str, Any]:
    """The settings of a side; version 1 has those of both in one place."""
    if isinstance(data.get(side), dict):
        return dict(data[side])
    shared = {name: data[name] for name in ("level", "lowercase") if name in data}
    return {**shared, "lang": data.get(side), "voc_file": data.get(f"{side}_vocab")}


def _processing(side: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to text there and not here."""
    own = side.get("tokenizer_cfg") or {}
    values = {**{name: side.get(name) for name in ("lowercase", "normalize")}, "pretokenizer": own.get("pretokenizer")}
    return {name: value for name, value in values.items() if value not in (None, False, "none")}


def _tokenizers(file: Path, data: Mapping[str, Any]) -> tuple[Tokenizer, Tokenizer]:
    made = []
    symbols = data.get("special_symbols") or {}
    names = [symbols.get(f"{name}_token", f"<{name}>") for name in ("unk", "pad")]
    names += [symbols.get("bos_token", "<s>"), symbols.get("eos_token", "</s>")]
    for side in ("src", "trg"):
        settings = _side(data, side)
        table = _vocabulary(file, settings, side, [*names, *(symbols.get("lang_tags") or ())])
        unk, pad, bos, eos = (table.index(name) for name in names)
        hidden = tuple(table.index(tag) for tag in symbols.get("lang_tags") or ())
        made.append(_splitter(file, settings, side)(table, Specials(pad, unk, bos, eos, hidden=hidden)))
    source, target = made
    return source, source if source.fingerprint == target.fingerprint else target


def _vocabulary(file: Path, side: Mapping[str, Any], name: str, first: list[str]) -> list[str]:
    """Special symbols, then an entry a line; what is there twice counts once."""
    given = side.get("voc_file")
    paths = [file.parent / f"{name}_vocab.txt", *([file.parent / Path(str(given)).name] if given else [])]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ModelFolderError(f"{paths[0]}: the vocabulary is missing; put it beside {file.name}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ModelFolderError(f"{path}: not UTF-8 text; the file is damaged: get it again") from None
    return list(dict.fromkeys([*first, *(line for line in lines if line)]))


def _splitter(file: Path, side: Mapping[str, Any], name: str) -> Any:
    level = str(side.get("level", "word"))
    own = side.get("tokenizer_cfg") or {}
    if level in ("word", "char"):
        return splitter(file, "words" if level == "word" else "characters")
    kind = side.get("tokenizer_type", side.get("bpe_type", "sentencepiece" if own else None))
    if level != "bpe" or kind not in ("sentencepiece", "subword-nmt", None):
        raise ModelFolderError(
            f"{file.parent / CONFIG_FILE}: data.{name}: level {level!r} with tokenizer {kind!r} is not supported; "
            "supported: word, char, and bpe by sentencepiece or subword-nmt"
        )
    if kind == "sentencepiece":
        model = own.get("model_file")
        return splitter(file, kind, file.parent / Path(str(model)).name if model else None)
    codes = own.get("codes")
    path = file.parent / Path(str(codes)).name if codes else next(iter(sorted(file.parent.glob("*codes*"))), None)
    return splitter(file, "codes", path, separator=str(own.get("separator", "@@")), restricted=kind is not None)
