"""The kinds of tokenizers: SentencePiece, single characters, letters, space-separated symbols.

Knows nothing of learning a vocabulary or of files (``tokenizer.py`` does), and nothing of batches: <s> and </s> are
added by whoever builds one. The four special numbers are the same for every kind: <pad> 0, <unk> 1, <s> 2, </s> 3.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import sentencepiece

from pellucid.errors import TokenizerError

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "CharacterTokenizer",
    "LetterTokenizer",
    "SentencePieceTokenizer",
    "SymbolTokenizer",
    "Tokenizer",
    "checked_text",
    "find_parts",
    "framed",
]

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
UNKNOWN_TEXT = "⁇"  # what SentencePiece writes for <unk>; the other kinds do likewise
_NBEST = 64  # segmentations to sample from (Kudo 2018, section 3.2, uses l = 64)
_MEMO_BYTES = 256 << 20  # segmentations kept for later epochs


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token numbers and back."""

    kind: str
    vocab_size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    suppressed_ids: tuple[int, ...]
    """Tokens that are never generated."""
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    """What stands before every text, and behind it before ``eos_id`` (a language code, say); see :func:`framed`."""

    def encode(self, text: str) -> list[int]:
        """Token numbers of ``text``, without specials (but <unk> for what has no token)."""
        ...

    def sample(self, text: str, alpha: float, rng: np.random.Generator) -> list[int]:
        """One of the segmentations of ``text``, drawn with ``rng``; the same as :meth:`encode` where there is one."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token numbers; <pad>, <s> and </s> are ignored, <unk> is ⁇."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as a string, for display."""
        ...

    def unknown(self, text: str) -> list[str]:
        """The parts of ``text`` that become <unk>, in order."""
        ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The part of ``text`` that each token of :meth:`encode` stands for: first character, and the one behind.

        In order, without overlap; empty where a token stands for no character of its own.
        """
        ...

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of :meth:`decode`, perhaps with space around, and each token's part of it, as :meth:`spans`."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides about the result of :meth:`encode`, in hexadecimal."""
        ...


class SentencePieceTokenizer:
    """Subwords by SentencePiece (Kudo and Richardson 2018).

    Args:
        model: the bytes of a SentencePiece model whose specials are numbered as above.

    Raises:
        TokenizerError: not a SentencePiece model, or its specials have other numbers.
    """

    kind = "sentencepiece"
    pad_id, unk_id, bos_id, eos_id = PAD, UNK, BOS, EOS
    suppressed_ids: tuple[int, ...] = (PAD, BOS)
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self.vocab_size: int = self._processor.vocab_size()
        except (RuntimeError, OSError):
            raise TokenizerError("not a SentencePiece model (truncated or damaged)") from None
        numbers = tuple(getattr(self._processor, name)() for name in ("pad_id", "unk_id", "bos_id", "eos_id"))
        if numbers != (PAD, UNK, BOS, EOS):
            raise TokenizerError(
                f"the SentencePiece model numbers pad, unk, bos, eos as {numbers}; pellucid needs (0, 1, 2, 3)"
            )
        self._scores = np.array([self._processor.GetScore(piece) for piece in range(self.vocab_size)])
        self._memo: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._memo_bytes = 0

    def encode(self, text: str) -> list[int]:
        return list(self._processor.EncodeAsIds(checked_text(text)))

    def sample(self, text: str, alpha: float, rng: np.random.Generator) -> list[int]:
        """Draw from the 64 best segmentations with probability ∝ P(segmentation)^alpha (Kudo 2018, section 3.2).

        SentencePiece can sample by itself, but from a global generator that can be neither stored nor set for one text.
        """
        flat, ends, scores = self._segmentations(text)
        chosen = _draw(np.exp(alpha * (scores - scores.max())), rng) if len(scores) > 1 else 0
        ids: list[int] = flat[ends[chosen - 1] if chosen else 0 : ends[chosen]].tolist()
        return ids

    def _segmentations(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best segmentations one after another, where each ends, and their log-probabilities (up to a constant)."""
        found = self._memo.get(text)
        if found is not None:
            return found
        try:
            lists = self._processor.NBestEncodeAsIds(checked_text(text), _NBEST)
        except RuntimeError:
            raise TokenizerError("segmentations can be sampled from a unigram model only, not from BPE") from None
        lengths = np.array([len(ids) for ids in lists], dtype=np.int32)
        ends = lengths.cumsum(dtype=np.int32)
        small = np.uint16 if self.vocab_size <= 1 << 16 else np.int32
        flat = np.fromiter(itertools.chain.from_iterable(lists), dtype=small, count=int(ends[-1]))
        scores = np.add.reduceat(self._scores[flat], ends - lengths) if len(flat) else np.zeros(1)
        found = flat, ends, scores
        # Finding them costs far more than drawing one, and the next epoch needs the same.
        self._memo_bytes += sum(array.nbytes for array in found)
        if self._memo_bytes <= _MEMO_BYTES:
            self._memo[text] = found
        return found

    def decode(self, ids: Sequence[int]) -> str:
        kept = [int(token) for token in ids if token not in (PAD, BOS, EOS)]
        # SentencePiece surrounds <unk> by spaces of its own (" ⁇ "); at the ends they are not part of the text.
        return str(self._processor.DecodeIds(kept)).strip(" ")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [str(self._processor.IdToPiece(int(token))) for token in ids]

    def unknown(self, text: str) -> list[str]:
        if UNK not in self._processor.EncodeAsIds(text):
            return []
        proto = self._processor.EncodeAsProto(text)
        return [piece.surface for piece in proto.pieces if piece.id == UNK]

    def spans(self, text: str) -> list[tuple[int, int]]:
        proto = self._processor.EncodeAsProto(checked_text(text))
        return find_parts(text, [piece.surface for piece in proto.pieces])

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        kept = [int(token) for token in ids if token not in (PAD, BOS, EOS)]
        proto = self._processor.DecodeIdsAsProto(kept)
        spans = iter(find_parts(proto.text, [piece.surface for piece in proto.pieces]))
        end = len(proto.text)
        return proto.text, [(end, end) if token in (PAD, BOS, EOS) else next(spans) for token in ids]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()


class _ListTokenizer(ABC):
    """A vocabulary that is a list of strings, numbered from 4."""

    kind: str
    pad_id, unk_id, bos_id, eos_id = PAD, UNK, BOS, EOS
    suppressed_ids: tuple[int, ...] = (PAD, BOS)
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    separator: str

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.vocab_size = len(SPECIALS) + len(self.vocabulary)
        # A text may hold the very characters "<s>": as a symbol they get a number of their own, never a special's.
        self._numbers = {entry: number for number, entry in enumerate(self.vocabulary, start=len(SPECIALS))}
        if len(self._numbers) != len(self.vocabulary):
            raise TokenizerError("a vocabulary entry occurs twice")

    @staticmethod
    @abstractmethod
    def split(text: str) -> Sequence[str]:
        """The text's entries, known or not."""

    def encode(self, text: str) -> list[int]:
        return [self._numbers.get(entry, UNK) for entry in self.split(text)]

    def sample(self, text: str, alpha: float, rng: np.random.Generator) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in (PAD, BOS, EOS)]
        return self.separator.join(UNKNOWN_TEXT if t == UNK else self.vocabulary[t - len(SPECIALS)] for t in kept)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [SPECIALS[t] if t < len(SPECIALS) else self.vocabulary[t - len(SPECIALS)] for t in ids]

    def unknown(self, text: str) -> list[str]:
        return [entry for entry in self.split(text) if entry not in self._numbers]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return find_parts(text, self.split(text))

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        return text, find_parts(text, [self.decode([token]) for token in ids])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.kind, self.vocabulary]).encode()).hexdigest()


class CharacterTokenizer(_ListTokenizer):
    """One token per character (Unicode code point), spaces included; ``decode(encode(x)) == x`` if all are known."""

    kind = "characters"
    separator = ""

    @staticmethod
    def split(text: str) -> Sequence[str]:
        return text


class LetterTokenizer(_ListTokenizer):
    """One token per character of the text's canonical decomposition (Unicode NFD).

    A Hangul syllable is two or three letters, é is e and an accent: a few dozen letters where there are thousands of
    syllables. What is decoded is composed again (NFC).
    """

    kind = "letters"
    separator = ""

    @staticmethod
    def split(text: str) -> Sequence[str]:
        return unicodedata.normalize("NFD", text)

    def decode(self, ids: Sequence[int]) -> str:
        return unicodedata.normalize("NFC", super().decode(ids))

    def spans(self, text: str) -> list[tuple[int, int]]:
        return _spans_of_letters(text)

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        letters, spans = _spans_of_letters(text), []
        for token in ids:  # specials are no part of the text
            spans.append(letters.pop(0) if token not in (PAD, BOS, EOS) else (len(text), len(text)))
        return text, spans


def _spans_of_letters(text: str) -> list[tuple[int, int]]:
    """For each character of the text's NFD the character of the text that it is a part of."""
    return [(i, i + 1) for i, character in enumerate(text) for _ in unicodedata.normalize("NFD", character)]


class SymbolTokenizer(_ListTokenizer):
    """One token per space-separated symbol, as in ``k o̞ ŋ``; several spaces count as one."""

    kind = "symbols"
    separator = " "

    @staticmethod
    def split(text: str) -> Sequence[str]:
        # Only U+0020: str.split() would also split at the ideographic space, which may be a symbol.
        return [symbol for symbol in text.split(" ") if symbol]


def framed(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """A text's token numbers with what the tokenizer's model wants around them, all but ``eos_id`` at the end."""
    return [*tokenizer.prefix_ids, *ids, *tokenizer.suffix_ids]


def checked_text(text: str) -> str:
    """The text itself, if it is one.

    Raises:
        TokenizerError: it cannot be written as UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TokenizerError("the text holds half of a surrogate pair or bytes that are not UTF-8") from None
    return text


def find_parts(text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """Where ``parts`` stand in ``text``, one behind the other, with nothing but space and what was dropped between."""
    spans, place = [], 0
    for part in parts:
        start = text.find(part, place) if part else place
        start = place if start < 0 else start
        place = start + len(part)
        spans.append((start, place))
    return spans


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    edges = np.cumsum(weights)
    return min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(weights) - 1)
