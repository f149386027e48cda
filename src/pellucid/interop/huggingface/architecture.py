"""A checkpoint's model: which family it is of, its architecture here, its weights.

Knows nothing of tokenizers or generation settings. Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError
from pellucid.interop.huggingface.bart import BART, MBART
from pellucid.interop.huggingface.family import Family
from pellucid.interop.huggingface.files import CONFIG_FILE, read_json, read_tensors
from pellucid.interop.huggingface.m2m100 import M2M100
from pellucid.interop.huggingface.marian import MARIAN, PEGASUS
from pellucid.interop.huggingface.t5 import T5
from pellucid.interop.huggingface.table import Row, fill
from pellucid.model.skeleton import skeleton
from pellucid.model.transformer import EncoderDecoder
from pellucid.settings import explain

__all__ = ["FAMILIES", "family_of", "load_model", "rows_of"]

FAMILIES = (MARIAN, BART, MBART, M2M100, PEGASUS, T5)


def family_of(folder: Path, config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
        ModelFolderError: none that is supported; the message names those that are.
    """
    kind = config.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    if kind == "bert":
        raise ModelFolderError(
            f"{folder / CONFIG_FILE}: BERT is an encoder alone and generates nothing; "
            "training.encoder_from starts the encoder of a new model from it, and "
            "pellucid.interop.huggingface.bert.load_encoder reads it in Python"
        )
    supported = "; ".join(f"{', '.join(family.model_types)} ({family.title})" for family in FAMILIES)
    supported += "; gpt2 (GPT-2); llama (Llama)"
    raise ModelFolderError(f"{folder / CONFIG_FILE}: models of type {kind!r} are not supported; supported: {supported}")


def rows_of(family: Family, config: ModelConfig) -> list[Row]:
    """The whole table of a family, for a model of this architecture."""
    return [*family.embeddings.rows(config.tied_embeddings), *family.rows(config)]


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[EncoderDecoder, dict[str, Any]]:
    """Read the model of a checkpoint folder.

    Returns:
        The model in evaluation mode, in float32, and config.json.

    Raises:
        ModelFolderError: an unsupported family or variant; weights missing, damaged, left over, or misshapen.
    """
    document = read_json(folder / CONFIG_FILE)
    family = family_of(folder, document)
    found, file = read_tensors(folder)
    tensors = _headed(family, found)
    config = _config(folder, family, document, tensors)
    sizes = _vocabulary_sizes(folder, document)
    if config.one_vocabulary and sizes[0] != sizes[1]:
        raise ModelFolderError(f"{folder / CONFIG_FILE}: one matrix for two vocabularies of {sizes[0]} and {sizes[1]}")
    model = skeleton(lambda: EncoderDecoder(config, *sizes))
    fill(model, rows_of(family, config), tensors, family.ignored, str(folder / file))
    return model.to(device).eval(), document


def _vocabulary_sizes(folder: Path, document: Mapping[str, Any]) -> tuple[int, int]:
    source = document.get("vocab_size")
    target = document.get("decoder_vocab_size") or source
    if not (isinstance(source, int) and source > 0 and isinstance(target, int) and target > 0):
        raise ModelFolderError(f"{folder / CONFIG_FILE}: vocab_size must be a positive whole number, not {source!r}")
    return source, target


def _config(folder: Path, family: Family, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ModelConfig:
    path = folder / CONFIG_FILE
    tied = bool(document.get("tie_word_embeddings", True)) or family is T5
    try:
        settings = family.settings(document)
        return ModelConfig(**settings, tied_embeddings=family.embeddings.tying(tensors, tied=tied))
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ModelFolderError(f"{path}: {explain(error, ModelConfig)}") from None


def _headed(family: Family, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors by the names in a model with an output matrix; files of a bare one (BartModel) leave a word out."""
    base, _, rest = family.embeddings.shared.partition(".")
    is_bare = any(
        name in tensors for name in (rest, *(f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")))
    )
    if base != "model" or not is_bare or any(name.startswith("model.") for name in tensors):
        return tensors
    heads = ("lm_head.", "final_logits_bias")
    return {name if name.startswith(heads) else f"model.{name}": tensor for name, tensor in tensors.items()}
