"""What a reader of some program's checkpoints finds, and the model made of it.

A file for each program (fairseq.py, opennmt.py, joeynmt.py) gives :class:`Parts`; here they become a model and its
tokenizers, and whatever does not fit is said. Knows no program. Shapes: V vocabulary, M model size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.foreign_tokenizers import Specials, TableTokenizer
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.data.word_tokenizer import Level, WordTokenizer
from pellucid.errors import ModelFolderError, TokenizerError
from pellucid.interop.huggingface.table import EmbeddingNames, Row, fill
from pellucid.model.skeleton import skeleton
from pellucid.model.transformer import EncoderDecoder
from pellucid.settings import explain

__all__ = ["Assembled", "Parts", "Splitter", "assemble", "only", "splitter"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint says.

    Attributes:
        file: it came from.
        program: that wrote it, and the architecture as that calls it.
        tensors: by name there.
        settings: our model settings, all but ``tied_embeddings``.
        embeddings: names of the matrices over the vocabulary.
        rows: the other rows of the weight table.
        ignored: names that may be there without a meaning.
        source, target: tokenizers; the same object where they are alike.
        decoding: the program's way of generating as our settings.
        unmapped: what it does to text that is not done here, as ``name = value``.
        tied: whether the output matrix is the target's embeddings, where the file does not hold it.
    """

    file: Path
    program: tuple[str, str]
    tensors: Mapping[str, Tensor]
    settings: dict[str, Any]
    embeddings: EmbeddingNames
    rows: Callable[[ModelConfig], list[Row]]
    source: Tokenizer
    target: Tokenizer
    ignored: tuple[str, ...] = ()
    decoding: dict[str, Any] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Assembled:
    """The parts of a translator.

    Attributes:
        model: in evaluation mode, in float32.
        source, target: tokenizers.
        decoding: settings.
        document: what a model folder's config.json keeps about the origin.
    """

    model: EncoderDecoder
    source: Tokenizer
    target: Tokenizer
    decoding: DecodingConfig
    document: dict[str, Any]


def assemble(parts: Parts, device: str | torch.device = "cpu") -> Assembled:
    """Make the model and fill it.

    Raises:
        ModelFolderError: settings that cannot be, a vocabulary of another size than the model's, tensors that are
            missing, left over or misshapen.
    """
    names = parts.embeddings
    sizes = [_rows_of(parts, name) for name in (names.source, names.target)]
    for side, tokenizer, size in (("source", parts.source, sizes[0]), ("target", parts.target, sizes[1])):
        if tokenizer.vocab_size != size:
            raise ModelFolderError(
                f"{parts.file}: the {side} vocabulary has {tokenizer.vocab_size} entries and the model {size}: "
                "they are not of the same training run"
            )
    try:
        tying = names.tying(parts.tensors, tied=parts.tied)
        config = ModelConfig(**parts.settings, tied_embeddings=tying)
        decoding = DecodingConfig(**parts.decoding)
    except ValidationError as error:
        kind = ModelConfig if error.title == "ModelConfig" else DecodingConfig
        raise ModelFolderError(f"{parts.file}: as settings of pellucid: {explain(error, kind)}") from None
    model = skeleton(lambda: EncoderDecoder(config, *sizes))
    rows = [*names.rows(config.tied_embeddings), *parts.rows(config)]
    fill(model, rows, parts.tensors, parts.ignored, str(parts.file), "the checkpoint's settings")
    program, architecture = parts.program
    document = {"origin": {"program": program, "architecture": architecture}, "unmapped": parts.unmapped}
    return Assembled(model.to(device).eval(), parts.source, parts.target, decoding, document)


def _rows_of(parts: Parts, name: str) -> int:
    tensor = parts.tensors.get(name)
    if tensor is None or tensor.dim() != 2:
        raise ModelFolderError(f"{parts.file}: {name} is missing: not the weights of an encoder-decoder Transformer")
    return tensor.shape[0]


def only(file: Path, values: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with settings that this project has no counterpart for.

    Args:
        file: for the message.
        values: settings of the checkpoint.
        allowed: for each setting the values that load; a setting that is not there, or None, is always allowed.

    Raises:
        ModelFolderError: naming all that are not allowed.
    """
    wrong = [
        f"{name} = {values[name]!r} (supported: {', '.join(map(str, choices))})"
        for name, choices in allowed.items()
        if values.get(name) is not None and values[name] not in choices
    ]
    if wrong:
        raise ModelFolderError(f"{file}: a variant that is not supported: {'; '.join(wrong)}")


Splitter = Callable[[Sequence[str], Specials], Tokenizer]
"""Makes a tokenizer of a table of pieces and the special tokens."""


def splitter(file: Path, kind: str, model: Path | None = None, **settings: Any) -> Splitter:
    """How text becomes pieces of a table: by a SentencePiece model, by byte-pair codes, or at spaces.

    Args:
        file: the checkpoint, for messages.
        kind: ``sentencepiece``, ``codes``, ``words``, ``characters``.
        model: the file of the first two.
        **settings: of :class:`~pellucid.data.word_tokenizer.WordTokenizer`.

    Raises:
        ModelFolderError: that file is not there.
    """
    if model is None and kind not in ("words", "characters"):
        raise ModelFolderError(f"{file.parent}: the file of the {_NAMES[kind]} is missing; put it beside {file.name}")
    if model is not None and not model.is_file():
        raise ModelFolderError(f"{model}: the file of the {_NAMES[kind]} is missing; put it beside {file.name}")

    def make(pieces: Sequence[str], specials: Specials) -> Tokenizer:
        try:
            if kind == "sentencepiece":
                assert model is not None
                return TableTokenizer(model.read_bytes(), pieces, specials)
            codes = model.read_text(encoding="utf-8") if model is not None else None
            level: Level = "characters" if kind == "characters" else "words"
            return WordTokenizer(pieces, specials, level, codes, **settings)
        except TokenizerError as error:
            raise ModelFolderError(f"{model or file}: {error}") from None
        except UnicodeDecodeError:
            raise ModelFolderError(f"{model}: not UTF-8 text, so not byte-pair codes") from None

    return make


_NAMES = {"sentencepiece": "SentencePiece model (*.model)", "codes": "byte-pair codes (bpecodes, codes)"}
