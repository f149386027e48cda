"""GPT-2 and Llama: checkpoints of a decoder alone.

Knows their names, settings and tokenizer; transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.foreign_tokenizers import JsonTokenizer, Specials, byte_level_json, read_tokenizer_json
from pellucid.errors import ModelFolderError, TokenizerError
from pellucid.interop.huggingface.family import activation
from pellucid.interop.huggingface.files import CONFIG_FILE, read_json, read_tensors
from pellucid.interop.huggingface.generation import decoding_settings
from pellucid.interop.huggingface.table import Row, Transform, fill
from pellucid.model.alone import DecoderOnly
from pellucid.model.skeleton import skeleton
from pellucid.settings import explain

__all__ = ["DECODERS", "DecoderCheckpoint", "decoder_rows", "load_decoder", "split_tensors"]

_EMBEDDING = "decoder.embedder.embedding.weight"
_TRANSPOSED = Transform(lambda tensor: tensor.T, lambda tensor: tensor.T)
"""GPT-2 keeps matrices as [in, out]."""


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """One family; attributes as those of :class:`~pellucid.interop.huggingface.family.Family`.

    Attributes:
        split: the file's tensors, with those that hold several matrices taken apart.
    """

    title: str
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    rows: Callable[[ModelConfig], list[Row]]
    split: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecoderCheckpoint:
    """What a checkpoint folder holds; attributes as those of ``checkpoint.Checkpoint``."""

    model: DecoderOnly
    tokenizer: JsonTokenizer
    decoding: DecodingConfig
    unmapped: list[str]
    document: dict[str, Any]


def _refuse(config: Mapping[str, Any], **supported: Any) -> None:
    wrong = [f"{name} = {config[name]}" for name, value in supported.items() if config.get(name, value) != value]
    if wrong:
        raise ModelFolderError(f"a variant that is not supported: {', '.join(wrong)}")


# -- GPT-2


def _gpt2_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    _refuse(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width = config.get("n_embd", 768)
    return {
        "hidden_size": width,
        "decoder_layers": config.get("n_layer", 12),
        "num_heads": config.get("n_head", 12),
        "ff_size": config.get("n_inner") or 4 * width,
        "activation": activation(config.get("activation_function", "gelu_new")),
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "max_positions": config.get("n_positions", 1024),
        "dropout": config.get("resid_pdrop", 0.1),
        "attention_dropout": config.get("attn_pdrop", 0.1),
    }


def _gpt2_split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in GPT2LMHeadModel (the oldest files leave ``transformer.`` out), c_attn in its three parts."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
        if ".attn.c_attn." in full and tensor.shape[-1] % 3 == 0:
            stem, part = full.rsplit(".", 1)
            for letter, third in zip("qkv", tensor.chunk(3, -1), strict=True):
                found[f"{stem}.{letter}.{part}"] = third
        else:
            found[full] = tensor
    return found


def _gpt2_rows(config: ModelConfig) -> list[Row]:
    rows = [Row("decoder.embedder.positions.table", ("transformer.wpe.weight",))]

    def norm(here: str, there: str) -> None:
        rows.extend(Row(f"{here}.{part}", (f"{there}.{part}",)) for part in ("weight", "bias"))

    def linear(here: str, there: str) -> None:
        rows.append(Row(f"{here}.weight", (f"{there}.weight",), _TRANSPOSED))
        rows.append(Row(f"{here}.bias", (f"{there}.bias",)))

    for number in range(config.decoder_layers):
        here, there = f"decoder.layers.{number}", f"transformer.h.{number}"
        norm(f"{here}.attention_sublayer.norm", f"{there}.ln_1")
        for ours, theirs in (("query", "c_attn.q"), ("key", "c_attn.k"), ("value", "c_attn.v"), ("output", "c_proj")):
            linear(f"{here}.attention.{ours}", f"{there}.attn.{theirs}")
        norm(f"{here}.feed_forward_sublayer.norm", f"{there}.ln_2")
        linear(f"{here}.feed_forward.up", f"{there}.mlp.c_fc")
        linear(f"{here}.feed_forward.down", f"{there}.mlp.c_proj")
    norm("decoder.norm", "transformer.ln_f")
    return rows


# -- Llama


def _llama_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    _refuse(config, attention_bias=False, mlp_bias=False)
    # transformers 5 writes both into rope_parameters.
    rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelFolderError(f"rope_scaling of type {kind!r} is not supported; supported: none, with any rope_theta")
    heads = config.get("num_attention_heads", 32)
    return {
        "hidden_size": config.get("hidden_size", 4096),
        "decoder_layers": config.get("num_hidden_layers", 32),
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim"),
        "ff_size": config.get("intermediate_size", 11008),
        "activation": activation(config.get("hidden_act", "silu"), gated=True),
        "norm": "rmsnorm",
        "norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "positions": "rotary",
        "rotary_base": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "bias": False,
        "dropout": 0.0,
        "attention_dropout": config.get("attention_dropout", 0.0),
    }


def _llama_rows(config: ModelConfig) -> list[Row]:
    rows = []
    for number in range(config.decoder_layers):
        here, there = f"decoder.layers.{number}", f"model.layers.{number}"
        for ours, theirs in (
            ("attention_sublayer.norm", "input_layernorm"),
            ("attention.query", "self_attn.q_proj"),
            ("attention.key", "self_attn.k_proj"),
            ("attention.value", "self_attn.v_proj"),
            ("attention.output", "self_attn.o_proj"),
            ("feed_forward_sublayer.norm", "post_attention_layernorm"),
            ("feed_forward.gate", "mlp.gate_proj"),
            ("feed_forward.up", "mlp.up_proj"),
            ("feed_forward.down", "mlp.down_proj"),
        ):
            rows.append(Row(f"{here}.{ours}.weight", (f"{there}.{theirs}.weight",)))
    return [*rows, Row("decoder.norm.weight", ("model.norm.weight",))]


DECODERS = {
    "gpt2": DecoderFamily(
        "GPT-2", _gpt2_settings, _gpt2_rows, _gpt2_split, (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)
    ),
    "llama": DecoderFamily(
        "Llama", _llama_settings, _llama_rows, dict, (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
    ),
}
_NAMES = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}


# -- all of a checkpoint


def split_tensors(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the names of the table."""
    return DECODERS[kind].split(tensors)


def decoder_rows(kind: str, config: ModelConfig) -> list[Row]:
    """The whole table of a family."""
    embedding, output = _NAMES[kind], "lm_head.weight"
    if config.tied_embeddings != "none":
        return [Row(_EMBEDDING, (embedding, output)), *DECODERS[kind].rows(config)]
    return [Row(_EMBEDDING, (embedding,)), Row("output.weight", (output,)), *DECODERS[kind].rows(config)]


def load_decoder(folder: Path, device: str | torch.device = "cpu") -> DecoderCheckpoint:
    """Read a checkpoint folder of one of :data:`DECODERS`.

    Raises:
        ModelFolderError: an unsupported variant, incomplete or damaged, or its parts do not fit each other.
        MissingExtraError: the library that reads its tokenizer is not installed.
    """
    path = folder / CONFIG_FILE
    document, generation = read_json(path), read_json(folder / "generation_config.json")
    kind = document["model_type"]
    tensors, file = read_tensors(folder)
    tensors = split_tensors(kind, tensors)
    embedding, output = tensors.get(_NAMES[kind]), tensors.get("lm_head.weight")
    if embedding is None or embedding.dim() != 2:
        raise ModelFolderError(f"{folder / file}: {_NAMES[kind]} is missing; the folder is incomplete: get it again")
    tied = torch.equal(output, embedding) if output is not None else document.get("tie_word_embeddings", kind == "gpt2")
    shared = {"norm_placement": "pre", "scale_embeddings": False, "tied_embeddings": "two" if tied else "none"}
    try:
        config = ModelConfig(**DECODERS[kind].settings(document), **shared)
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ModelFolderError(f"{path}: {explain(error, ModelConfig)}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{path}: not a config of this family ({error})") from None
    model = skeleton(lambda: DecoderOnly(config, embedding.shape[0]))
    fill(model, decoder_rows(kind, config), tensors, DECODERS[kind].ignored, str(folder / file))
    tokenizer = _tokenizer(folder, document, generation, embedding.shape[0])
    decoding, unmapped = _decoding(folder, document, generation, tokenizer)
    return DecoderCheckpoint(model.to(device).eval(), tokenizer, decoding, unmapped, document)


def _tokenizer(folder: Path, document: Mapping[str, Any], generation: Mapping[str, Any], size: int) -> JsonTokenizer:
    def number(name: str) -> int | None:
        value = generation.get(name, document.get(name))
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) else None

    eos, bos = number("eos_token_id"), number("bos_token_id")
    if eos is None:
        raise ModelFolderError(f"{folder}: neither config.json nor generation_config.json says what eos_token_id is")
    try:
        if (folder / "tokenizer.json").is_file():
            content = (folder / "tokenizer.json").read_text(encoding="utf-8")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            content = byte_level_json(read_json(folder / "vocab.json"), merges)
        else:
            raise ModelFolderError(
                f"{folder}: no tokenizer (tokenizer.json, or vocab.json with merges.txt); "
                "the folder is incomplete: download all of it"
            )
        library = read_tokenizer_json(content)
        if library.get_vocab_size() > size:
            raise ModelFolderError(
                f"{folder}: the tokenizer has {library.get_vocab_size()} tokens and the model {size}: "
                "the files are not of the same checkpoint"
            )
        bare, whole = (library.encode("a", add_special_tokens=special).ids for special in (False, True))
        prefix = whole[: len(whole) - len(bare)] if whole[len(whole) - len(bare) :] == bare else []
        pad = number("pad_token_id")
        unk = library.token_to_id("<unk>")
        hidden = tuple(n for n, token in library.get_added_tokens_decoder().items() if token.special)
        specials = Specials(
            pad=eos if pad is None else pad, unk=eos if unk is None else unk, bos=eos if bos is None else bos, eos=eos,
            prefix=tuple(prefix), hidden=hidden,
        )  # fmt: skip
        return JsonTokenizer(content, specials, size)
    except TokenizerError as error:
        raise ModelFolderError(f"{folder}: {error}") from None


def _decoding(
    folder: Path, document: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: JsonTokenizer
) -> tuple[DecodingConfig, list[str]]:
    def piece(number: int) -> str:
        return tokenizer.pieces([number])[0]

    found = dict(generation)
    # What counts the prompt there and has no counterpart here.
    counting = {
        name: found.pop(name) for name in ("max_length", "min_length", "repetition_penalty", "no_repeat_ngram_size")
        if found.get(name) is not None
    }  # fmt: skip
    idle = {"max_length": 20, "min_length": 0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    ends = found.get("eos_token_id")
    settings = decoding_settings({}, found, piece, lambda ids: None, tokenizer.eos_id)
    unmapped = [*settings.unmapped]
    unmapped += [f"{name} = {value} (counts the prompt)" for name, value in counting.items() if value != idle[name]]
    if isinstance(ends, list) and len(ends) > 1:
        unmapped.append(f"eos_token_id = {ends} (only the first ends a text)")
    try:
        return DecodingConfig.model_validate(settings.decoding), unmapped
    except ValidationError as error:
        place = folder / "generation_config.json"
        raise ModelFolderError(f"{place}: as settings of pellucid: {explain(error, DecodingConfig)}") from None
