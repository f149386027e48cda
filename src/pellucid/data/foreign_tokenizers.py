"""Tokenizers that others made, for checkpoints that others made: their numbers, and their special tokens.

Two kinds: SentencePiece for the pieces with a table of its own for their numbers, and a ``tokenizer.json`` read by
Hugging Face's ``tokenizers``. Knows nothing of checkpoint folders (``interop/huggingface`` does). As in transformers,
special tokens, ``<unk>`` among them, leave no trace in decoded text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sentencepiece

from pellucid.data.tokenizer_kinds import checked_text, find_parts
from pellucid.errors import MissingExtraError, TokenizerError

__all__ = ["JsonTokenizer", "Specials", "TableTokenizer", "byte_level_json", "read_tokenizer_json"]

_LANGUAGE_CODE = re.compile(r">>[^<]*<<")


@dataclass(frozen=True, slots=True)
class Specials:
    """The special tokens of one side.

    Attributes:
        pad, unk, bos, eos: padding; unknown; what the decoder reads first; what ends a text.
        prefix, suffix: what stands before a text, and behind it before ``eos``.
        hidden: further tokens that stand for no text.
    """

    pad: int
    unk: int
    bos: int
    eos: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    @property
    def silent(self) -> frozenset[int]:
        """All tokens that decoded text leaves out."""
        return frozenset((self.pad, self.unk, self.bos, self.eos, *self.prefix, *self.suffix, *self.hidden))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Specials:
        """What ``asdict`` wrote."""
        values: dict[str, Any] = {
            name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()
        }
        return cls(**values)


class _Foreign:
    """What both kinds share."""

    kind: str
    suppressed_ids: tuple[int, ...] = ()  # what must not be generated is said in the checkpoint's settings

    def __init__(self, specials: Specials, vocab_size: int) -> None:
        self.specials, self.vocab_size = specials, vocab_size
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = specials.pad, specials.unk, specials.bos, specials.eos
        self.prefix_ids, self.suffix_ids = specials.prefix, specials.suffix
        self._silent = specials.silent
        numbers = [*self._silent]
        if not all(0 <= number < vocab_size for number in numbers):
            raise TokenizerError(
                f"a special token has the number {max(numbers)}; the vocabulary has {vocab_size} tokens"
            )

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def sample(self, text: str, alpha: float, rng: np.random.Generator) -> list[int]:
        return self.encode(text)

    def _kept(self, ids: Sequence[int]) -> list[int]:
        return [int(token) for token in ids if int(token) not in self._silent]

    def _fingerprint(self, content: bytes) -> str:
        rest = json.dumps([self.kind, self.vocab_size, asdict(self.specials)])
        return hashlib.sha256(content + rest.encode()).hexdigest()


class TableTokenizer(_Foreign):
    """SentencePiece splits; a table numbers the pieces.

    Args:
        model: the bytes of a SentencePiece model.
        table: the piece of each number. Where a piece is there twice, the first number is meant.
        specials: see there.
        vocab_size: of the model that reads the numbers; at least the table's length.
        codes: whether a ``>>code<<`` at the beginning of a text is one token (OPUS-MT).
    """

    kind = "sentencepiece-table"

    def __init__(
        self,
        model: bytes,
        table: Sequence[str],
        specials: Specials,
        vocab_size: int | None = None,
        *,
        codes: bool = False,
    ) -> None:
        super().__init__(specials, vocab_size or len(table))
        self.model, self.table, self.codes = model, tuple(table), codes
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError):
            raise TokenizerError("not a SentencePiece model (truncated or damaged)") from None
        self._numbers = {piece: number for number, piece in reversed(list(enumerate(self.table)))}

    def encode(self, text: str) -> list[int]:
        return [self._numbers.get(piece, self.unk_id) for piece in self._split(text)]

    def _split(self, text: str) -> list[str]:
        code, rest = self._code(checked_text(text))
        return [*code, *self._processor.EncodeAsPieces(rest)]

    def _code(self, text: str) -> tuple[list[str], str]:
        found = _LANGUAGE_CODE.match(text) if self.codes else None
        return ([found[0]], text[found.end() :]) if found else ([], text)

    def decode(self, ids: Sequence[int]) -> str:
        # Pieces that the model does not know are written as they are; rows of the matrix without a piece, not at all.
        kept = [self.table[token] for token in self._kept(ids) if token < len(self.table)]
        text = str(self._processor.DecodePieces(kept))
        return text.replace("▁", " ").strip()

    def _piece(self, token: int) -> str:
        return self.table[token] if token < len(self.table) else f"<unused {token}>"

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(token)) for token in ids]

    def unknown(self, text: str) -> list[str]:
        code, rest = self._code(checked_text(text))
        surfaces = [*code, *(piece.surface for piece in self._processor.EncodeAsProto(rest).pieces)]
        return [
            part for part, piece in zip(surfaces, self._split(text), strict=True) if self._numbers.get(piece) is None
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        code, rest = self._code(checked_text(text))
        return find_parts(text, [*code, *(piece.surface for piece in self._processor.EncodeAsProto(rest).pieces)])

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        shown = [self._piece(int(token)) if self._kept([token]) and token < len(self.table) else "" for token in ids]
        parts = [piece.replace("▁", "") for piece in shown]
        return text, find_parts(text, parts)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint(self.model + json.dumps([self.table, self.codes]).encode())


class JsonTokenizer(_Foreign):
    """A ``tokenizer.json``, read by the library ``tokenizers``.

    Args:
        content: of the file.
        specials: see there.
        vocab_size: of the model that reads the numbers; at least the file's.
    """

    kind = "tokenizer-json"

    def __init__(self, content: str, specials: Specials, vocab_size: int) -> None:
        super().__init__(specials, vocab_size)
        self.content = content
        self._tokenizer = read_tokenizer_json(content)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(checked_text(text), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(self._kept(ids), skip_special_tokens=True)).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.id_to_token(int(token)) or f"<unused {token}>" for token in ids]

    def unknown(self, text: str) -> list[str]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [text[start:end] for token, (start, end) in pairs if token == self.unk_id]

    def spans(self, text: str) -> list[tuple[int, int]]:
        spans, place = [], 0
        for start, end in self._tokenizer.encode(checked_text(text), add_special_tokens=False).offsets:
            start = max(start, place)  # the bytes of one character may be several tokens
            place = max(start, end)
            spans.append((start, place))
        return spans

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        spans: list[tuple[int, int]] = []
        for number in range(1, len(ids) + 1):
            end = len(self.decode(ids[:number])) if int(ids[number - 1]) not in self._silent else None
            last = spans[-1][1] if spans else 0
            spans.append((last, last if end is None else min(max(end, last), len(text))))
        return text, spans

    @property
    def fingerprint(self) -> str:
        return self._fingerprint(self.content.encode())


def read_tokenizer_json(content: str) -> Any:
    """The library's tokenizer for a file's content.

    Raises:
        MissingExtraError: the library is not installed.
        TokenizerError: not such a file, or of a version that the library does not read.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface", "reading a tokenizer.json") from None
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing more special
        raise TokenizerError(f"not a tokenizer.json that this version of tokenizers reads ({error})") from None
    # Many files still hold how their last training batch was cut and padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def byte_level_json(numbers: Mapping[str, int], merges: Sequence[tuple[str, ...]]) -> str:
    """The content of a tokenizer.json for byte-level BPE (Radford et al. 2019), from its vocabulary and merges.

    Raises:
        MissingExtraError: the library is not installed.
        TokenizerError: merges that are not pairs of known pieces.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface", "byte-level BPE") from None
    try:
        tokenizer = Tokenizer(models.BPE(dict(numbers), [(first, second) for first, second in merges]))
    except Exception as error:
        raise TokenizerError(f"vocab.json and merges.txt do not fit each other ({error})") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [name for name in ("<s>", "<pad>", "</s>", "<unk>") if name in numbers]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in marks])
    return str(tokenizer.to_str())
