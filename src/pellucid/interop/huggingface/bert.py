"""BERT: checkpoints of an encoder alone, with a vector for each token type.

Knows its names and settings, and its WordPiece tokenizer. The pooler and the heads for its two training tasks are not
part of an encoder: they are read over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.data.foreign_tokenizers import JsonTokenizer, Specials, read_tokenizer_json, word_piece_json
from pellucid.errors import ModelFolderError, TokenizerError
from pellucid.interop.huggingface.family import activation
from pellucid.interop.huggingface.files import CONFIG_FILE, read_json, read_tensors
from pellucid.interop.huggingface.table import Row, fill
from pellucid.model.alone import EncoderOnly
from pellucid.model.skeleton import skeleton
from pellucid.settings import explain

__all__ = ["bert_rows", "bert_tensors", "load_encoder", "load_source_tokenizer"]

_IGNORED = (r"pooler\..*", r"cls\..*", r"classifier\..*", r"embeddings\.position_ids")


def load_encoder(folder: Path, device: str | torch.device = "cpu") -> tuple[EncoderOnly, dict[str, Any]]:
    """Read a BERT checkpoint folder.

    Returns:
        The encoder in evaluation mode, in float32, and config.json.

    Raises:
        ModelFolderError: another kind of model, an unsupported variant, weights missing, left over or misshapen.
    """
    path = folder / CONFIG_FILE
    document = read_json(path)
    kind = document.get("model_type")
    if kind != "bert":
        raise ModelFolderError(
            f"{path}: models of type {kind!r} are not supported as an encoder alone; supported: bert"
        )
    tensors, file = read_tensors(folder)
    try:
        config = ModelConfig(**_settings(document))
        sizes = int(document.get("vocab_size", 30522)), int(document.get("type_vocab_size", 2))
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ModelFolderError(f"{path}: {explain(error, ModelConfig)}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{path}: not a config of this family ({error})") from None
    model = skeleton(lambda: EncoderOnly(config, *sizes))
    fill(model, bert_rows(config), bert_tensors(tensors), _IGNORED, str(folder / file))
    return model.to(device).eval(), document


def load_source_tokenizer(folder: Path, document: Mapping[str, Any], size: int) -> JsonTokenizer:
    """BERT's tokenizer for sources: ``[CLS] text [SEP]``.

    Args:
        folder: of the checkpoint, with ``tokenizer.json`` or ``vocab.txt``.
        document: its config.json.
        size: rows of the model's matrix.

    Raises:
        ModelFolderError: no such file, damaged, without BERT's special tokens, or not of the same checkpoint.
        MissingExtraError: the library that reads it is not installed.
    """
    whole, words = folder / "tokenizer.json", folder / "vocab.txt"
    try:
        if whole.is_file():
            content = whole.read_text(encoding="utf-8")
        elif words.is_file():
            about = read_json(folder / "tokenizer_config.json")
            lines = words.read_text(encoding="utf-8").rstrip("\n").split("\n")
            content = word_piece_json(
                [line.rstrip("\r") for line in lines], lower=about.get("do_lower_case") is not False
            )
        else:
            raise ModelFolderError(
                f"{folder}: no tokenizer (tokenizer.json or vocab.txt); the folder is incomplete: download all of it"
            )
        numbers = read_tokenizer_json(content).get_vocab(with_added_tokens=True)
        missing = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if name not in numbers]
        if missing or len(numbers) > size:
            reason = f"has no {missing[0]}" if missing else f"has {len(numbers)} tokens and the model {size}"
            raise ModelFolderError(f"{folder}: its tokenizer {reason}: not the tokenizer of this BERT checkpoint")
        pad, unknown, start, end = (numbers[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"))
        hidden = (numbers["[MASK]"],) if "[MASK]" in numbers else ()
        return JsonTokenizer(content, Specials(pad, unknown, start, end, prefix=(start,), hidden=hidden), size)
    except (TokenizerError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{folder}: {error}") from None


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    for name, supported in (("position_embedding_type", "absolute"), ("is_decoder", False)):
        if config.get(name) not in (None, supported):
            raise ModelFolderError(f"{name} = {config[name]} is not supported; supported: {supported}")
    return {
        "hidden_size": config.get("hidden_size", 768),
        "encoder_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "ff_size": config.get("intermediate_size", 3072),
        "activation": activation(config.get("hidden_act", "gelu")),
        "norm_epsilon": config.get("layer_norm_eps", 1e-12),
        "norm_placement": "post",
        "positions": "learned",
        "max_positions": config.get("max_position_embeddings", 512),
        "scale_embeddings": False,
        "embedding_norm": True,
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
    }


def bert_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in BertModel: models with heads put ``bert.`` in front, the oldest files call norms by Greek letters."""
    return {
        name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in tensors.items()
    }  # fmt: skip


def bert_rows(config: ModelConfig) -> list[Row]:
    """The whole table."""
    rows = [
        Row("encoder.embedder.embedding.weight", ("embeddings.word_embeddings.weight",)),
        Row("encoder.embedder.positions.table", ("embeddings.position_embeddings.weight",)),
        Row("token_types.weight", ("embeddings.token_type_embeddings.weight",)),
    ]

    def pair(here: str, there: str) -> None:
        rows.extend(Row(f"{here}.{part}", (f"{there}.{part}",)) for part in ("weight", "bias"))

    pair("encoder.embedder.norm", "embeddings.LayerNorm")
    for number in range(config.encoder_layers):
        here, there = f"encoder.layers.{number}", f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            pair(f"{here}.attention.{part}", f"{there}.attention.self.{part}")
        pair(f"{here}.attention.output", f"{there}.attention.output.dense")
        pair(f"{here}.attention_sublayer.norm", f"{there}.attention.output.LayerNorm")
        pair(f"{here}.feed_forward.up", f"{there}.intermediate.dense")
        pair(f"{here}.feed_forward.down", f"{there}.output.dense")
        pair(f"{here}.feed_forward_sublayer.norm", f"{there}.output.LayerNorm")
    return rows
