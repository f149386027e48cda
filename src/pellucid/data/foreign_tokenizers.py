"""Tokenizers that others made, for checkpoints that others made: their numbers, and their special tokens.

Two kinds: SentencePiece for the pieces with a table of its own for their numbers, and a ``tokenizer.json`` read by
Hugging Face's ``tokenizers``. Knows nothing of checkpoint folders (``interop/huggingface`` does). As in transformers,
special tokens, ``<unk>`` among them, leave no trace in decoded text.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sentencepiece

from pellucid.data.tokenizer_kinds import checked_text, find_parts
from pellucid.errors import MissingExtraError, TokenizerError

__all__ = [
    "Atom",
    "ForeignTokenizer",
    "JsonTokenizer",
    "Specials",
    "TableTokenizer",
    "byte_level_json",
    "read_tokenizer_json",
    "word_piece_json",
]

_LANGUAGE_CODE = re.compile(r">>[^<]*<<")


@dataclass(frozen=True, slots=True)
class Atom:
    """A token that is never split: where a text holds it, it is cut out before anything else is done.

    Attributes:
        text: as it stands in a text.
        number: of the token.
        lstrip, rstrip: whether it takes the white space before it, or behind it, along.
        single_word: whether it counts only where no letter or digit touches it.
    """

    text: str
    number: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression for it, its text in a group."""
        word = f"(?<!\\w){re.escape(self.text)}(?!\\w)" if self.single_word else re.escape(self.text)
        before, behind = (r"\s*" if strip else "" for strip in (self.lstrip, self.rstrip))
        return f"{before}({word}){behind}"


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


class ForeignTokenizer(ABC):
    """What all kinds share."""

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

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token numbers of ``text``, without what stands around it."""

    def sample(self, text: str, alpha: float, rng: np.random.Generator) -> list[int]:
        return self.encode(text)

    def _checked(self, token: int) -> int:
        if token >= self.vocab_size:
            raise TokenizerError(
                f"the text holds {self.pieces([token])[0]}, a special token for which the model has no vector: "
                "leave it out"
            )
        return token

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as a string, for display."""

    def _kept(self, ids: Sequence[int]) -> list[int]:
        return [int(token) for token in ids if int(token) not in self._silent]

    def _fingerprint(self, content: bytes) -> str:
        rest = json.dumps([self.kind, self.vocab_size, asdict(self.specials)])
        return hashlib.sha256(content + rest.encode()).hexdigest()


class TableTokenizer(ForeignTokenizer):
    """SentencePiece splits; a table numbers the pieces.

    Args:
        model: the bytes of a SentencePiece model.
        table: the piece of each number. Where a piece is there twice, the first number is meant.
        specials: see there.
        vocab_size: of the model that reads the numbers; at least the table's length.
        codes: whether a ``>>code<<`` at the beginning of a text is one token (OPUS-MT).
        atoms: tokens that are cut out of a text before it is split; where two begin at a place, the longer is meant.
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
        atoms: Sequence[Atom] = (),
    ) -> None:
        super().__init__(specials, vocab_size or len(table))
        self.model, self.table, self.codes, self.atoms = model, tuple(table), codes, tuple(atoms)
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError):
            raise TokenizerError("not a SentencePiece model (truncated or damaged)") from None
        self._numbers = {piece: number for number, piece in reversed(list(enumerate(self.table)))}
        self._atoms = {atom.text: atom.number for atom in self.atoms}
        longest_first = sorted(self.atoms, key=lambda atom: -len(atom.text))
        self._cut = re.compile("|".join(atom.pattern for atom in longest_first)) if self.atoms else None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, number in self._segments(text):
            if number is not None:
                ids.append(self._checked(number))
            else:
                ids += [self._numbers.get(piece, self.unk_id) for piece in self._processor.EncodeAsPieces(part)]
        return ids

    def _segments(self, text: str) -> list[tuple[str, int | None]]:
        """The text in parts: what is one token, with its number, and what SentencePiece is to split, with None."""
        text = checked_text(text)
        parts: list[tuple[str, int | None]] = []
        place = 0
        if code := _LANGUAGE_CODE.match(text) if self.codes else None:
            parts.append((code[0], self._numbers.get(code[0], self.unk_id)))
            place = code.end()
        for found in self._cut.finditer(text, place) if self._cut is not None else ():
            atom = found[found.lastindex or 0]
            parts += [(text[place : found.start()], None), (atom, self._atoms[atom])]
            place = found.end()
        return [part for part in (*parts, (text[place:], None)) if part[0]]

    def _split(self, text: str) -> list[tuple[str, int]]:
        """Each token's part of a text, and its number."""
        split: list[tuple[str, int]] = []
        for part, number in self._segments(text):
            if number is not None:
                split.append((part, number))
            else:
                pieces = self._processor.EncodeAsProto(part).pieces
                split += [(piece.surface, self._numbers.get(piece.piece, self.unk_id)) for piece in pieces]
        return split

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
        return [part for part, number in self._split(text) if number == self.unk_id]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return find_parts(text, [part for part, _ in self._split(text)])

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        shown = [self._piece(int(token)) if self._kept([token]) and token < len(self.table) else "" for token in ids]
        parts = [piece.replace("▁", "") for piece in shown]
        return text, find_parts(text, parts)

    @property
    def fingerprint(self) -> str:
        rest: list[Any] = [self.table, self.codes]
        if self.atoms:
            rest.append([asdict(atom) for atom in self.atoms])
        return self._fingerprint(self.model + json.dumps(rest).encode())


class JsonTokenizer(ForeignTokenizer):
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
        ids = list(self._tokenizer.encode(checked_text(text), add_special_tokens=False).ids)
        if ids:
            self._checked(max(ids))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._raw(self._kept(ids)).strip()

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
        """As the protocol says; the work grows with the number of tokens, not with its square.

        How much longer a token makes the text is seen behind a few tokens before it, those since two whole characters.
        """
        text = self.decode(ids)
        lead = len(raw := self._raw(self._kept(ids))) - len(raw.lstrip())
        spans: list[tuple[int, int]] = []
        window: list[int] = []
        before = read = last = 0  # in the window: tokens that only give context; characters of these; of all before
        for token in map(int, ids):
            if token in self._silent:
                spans.append((spans[-1][1] if spans else 0,) * 2)
                continue
            window.append(token)
            shown = self._raw(window)
            end = last + max(0, len(shown) - read)
            start, stop = (min(max(0, place - lead), len(text)) for place in (last, end))
            start = max(start, spans[-1][1] if spans else 0)
            spans.append((start, max(start, stop)))
            if not shown.endswith("\ufffd"):  # no character is left half
                window, before = window[before:], len(window) - before
                read, last = len(self._raw(window)), end
        return text, spans

    def _raw(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

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
    marks = [name for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if name in numbers]
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True, lstrip=name == "<mask>") for name in marks]
    )
    return str(tokenizer.to_str())


def word_piece_json(pieces: Sequence[str], *, lower: bool) -> str:
    """The content of a tokenizer.json for BERT's WordPiece (Devlin et al. 2019), from the lines of its ``vocab.txt``.

    Args:
        pieces: in the order of their numbers.
        lower: whether text is put in lower case, without accents.

    Raises:
        MissingExtraError: the library is not installed.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface", "BERT's WordPiece") from None
    numbers = {piece: number for number, piece in reversed(list(enumerate(pieces)))}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    marks = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in numbers]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in marks])
    return str(tokenizer.to_str())
