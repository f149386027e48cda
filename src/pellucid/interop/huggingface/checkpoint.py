"""A Hugging Face checkpoint folder as the parts of a translator: model, tokenizers, decoding settings.

Knows nothing of the translator. transformers is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pellucid.config import DecodingConfig
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.interop.huggingface.architecture import load_model
from pellucid.interop.huggingface.folder import is_checkpoint
from pellucid.interop.huggingface.surroundings import read_surroundings
from pellucid.interop.huggingface.tokenizers import Languages
from pellucid.model.transformer import EncoderDecoder

__all__ = ["Checkpoint", "is_checkpoint", "load_checkpoint"]


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


def load_checkpoint(folder: Path, device: str | torch.device = "cpu", languages: Languages | None = None) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        ModelFolderError: unsupported, incomplete or damaged, or its parts do not fit each other.
        ConfigError: a language that the model does not know.
        MissingExtraError: it needs a library that is not installed.
    """
    model, document = load_model(folder, device)
    around = read_surroundings(folder, (model.source_vocab_size, model.target_vocab_size), languages or Languages())
    return Checkpoint(model, around.source, around.target, around.decoding, around.unmapped, document, around.awaits)
