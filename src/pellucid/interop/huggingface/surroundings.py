"""What stands around a checkpoint's weights: tokenizers and generation settings. Knows no weights, and no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pellucid.config import DecodingConfig
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.huggingface.folder import CONFIG_FILE, read_json
from pellucid.interop.huggingface.generation import decoding_settings
from pellucid.interop.huggingface.tokenizers import Languages, load_tokenizers
from pellucid.settings import explain

__all__ = ["Surroundings", "read_surroundings"]

_GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a checkpoint folder holds beside weights; the attributes are those of ``Checkpoint``."""

    source: Tokenizer
    target: Tokenizer
    decoding: DecodingConfig
    unmapped: list[str]
    document: dict[str, Any]
    awaits: str | None = None


def read_surroundings(folder: Path, sizes: tuple[int, int], languages: Languages) -> Surroundings:
    """Read a checkpoint folder, all but its weights.

    Args:
        folder: of the checkpoint.
        sizes: of the model's vocabularies, source and target.
        languages: for models that know several.

    Raises:
        ModelFolderError: incomplete or damaged, or its parts do not fit each other.
        ConfigError: a language that the model does not know.
        MissingExtraError: it needs a library that is not installed.
    """
    document, generation = read_json(folder / CONFIG_FILE), read_json(folder / _GENERATION_FILE)
    tokenizers = load_tokenizers(folder, document, generation, sizes, languages)
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
    return Surroundings(source, target, decoding, unmapped, document, tokenizers.awaits)


def _other_ends(document: Mapping[str, Any], generation: Mapping[str, Any]) -> list[str]:
    """Where several tokens end a text there: one does here."""
    ends = document.get("eos_token_id") if generation.get("eos_token_id") is None else generation["eos_token_id"]
    several = isinstance(ends, list) and len(ends) > 1
    return [f"eos_token_id = {ends} (only the first ends a text here)"] if several else []
