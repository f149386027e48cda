"""A Hugging Face checkpoint folder as the parts of a translator: model, tokenizers, decoding settings.

Knows nothing of the translator. transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from pellucid.config import DecodingConfig
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.huggingface.architecture import load_model
from pellucid.interop.huggingface.files import CONFIG_FILE, read_json
from pellucid.interop.huggingface.generation import decoding_settings
from pellucid.interop.huggingface.tokenizers import Languages, load_tokenizers
from pellucid.model.transformer import EncoderDecoder
from pellucid.settings import explain

__all__ = ["Checkpoint", "is_checkpoint", "load_checkpoint"]

_GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        model: in evaluation mode, in float32.
        source_tokenizer, target_tokenizer: may be the same object.
        decoding: its generation settings as ours.
        unmapped: generation settings that have no counterpart here, as ``name = value``.
        document: its config.json.
        awaits: a language that could be named, where the model writes many and none has been; it cannot generate then.
    """

    model: EncoderDecoder
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    decoding: DecodingConfig
    unmapped: list[str]
    document: dict[str, Any]
    awaits: str | None = None


def is_checkpoint(folder: Path) -> bool:
    """Whether a config of transformers stands in ``folder`` (it may still be incomplete)."""
    try:
        document = read_json(folder / CONFIG_FILE)
    except ModelFolderError:
        return False
    return "model_type" in document and "format" not in document


def load_checkpoint(folder: Path, device: str | torch.device = "cpu", languages: Languages | None = None) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        ModelFolderError: unsupported, incomplete or damaged, or its parts do not fit each other.
        ConfigError: a language that the model does not know.
        MissingExtraError: it needs a library that is not installed.
    """
    document, generation = read_json(folder / CONFIG_FILE), read_json(folder / _GENERATION_FILE)
    model, _ = load_model(folder, device)
    sizes = model.source_vocab_size, model.target_vocab_size
    tokenizers = load_tokenizers(folder, document, generation, sizes, languages or Languages())
    source, target, first = tokenizers.source, tokenizers.target, tokenizers.first

    def piece(number: int) -> str:
        return target.pieces([number])[0]

    def phrase(numbers: tuple[int, ...]) -> str | None:
        text = target.decode(numbers)
        return text if tuple(target.encode(text)) == numbers else None

    settings = decoding_settings(document, generation, piece, phrase, target.eos_id)
    if first is not None:
        settings.decoding.update(prefix_tokens=[piece(first)], forced_score="free")
    try:
        decoding = DecodingConfig.model_validate(settings.decoding)
    except ValidationError as error:
        place = folder / _GENERATION_FILE
        raise ModelFolderError(f"{place}: as settings of pellucid: {explain(error, DecodingConfig)}") from None
    unmapped = [*settings.unmapped, *_other_ends(document, generation)]
    return Checkpoint(model, source, target, decoding, unmapped, document, tokenizers.awaits)


def _other_ends(document: Mapping[str, Any], generation: Mapping[str, Any]) -> list[str]:
    """Where several tokens end a text there: one does here."""
    ends = document.get("eos_token_id") if generation.get("eos_token_id") is None else generation["eos_token_id"]
    several = isinstance(ends, list) and len(ends) > 1
    return [f"eos_token_id = {ends} (only the first ends a text here)"] if several else []
