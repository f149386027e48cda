"""A checkpoint folder's vocabularies: which files, which number each token has, which tokens stand for no text.

Knows the folders' layouts; nothing of what stands around a text (``tokenizers.py``) or of splitting it
(``data/foreign_tokenizers.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece

from pellucid.data.byte_tokenizer import FIRST_BYTE, ByteTokenizer
from pellucid.data.foreign_tokenizers import (
    Atom,
    JsonTokenizer,
    Specials,
    TableTokenizer,
    byte_level_json,
    read_tokenizer_json,
)
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError, TokenizerError
from pellucid.interop.huggingface.folder import read_json
from pellucid.interop.huggingface.languages import (
    M2M100_LANGUAGES,
    MBART50_LANGUAGES,
    MBART_LANGUAGES,
    NLLB_LANGUAGES,
    WMT21_LANGUAGES,
)

__all__ = ["Vocabulary", "class_name", "read_vocabularies"]

_INCOMPLETE = "the folder is incomplete: download all of it"
_CLASSES = (
    "Marian",
    "Bart",
    "Roberta",
    "MBart",
    "MBart50",
    "M2M100",
    "Nllb",
    "Pegasus",
    "T5",
    "MT5",
    "ByT5",
    "Barthez",
)
_GENERAL = ("", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend")
_ROUND = (8, 16, 32, 64, 128)
_MADE_UP = 8
"""Rows of M2M-100 that no token has (NLLB: 2): fairseq fills dictionaries up."""
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What one side's numbers mean, before it is said what stands around a text.

    Attributes:
        numbers: of the pieces; of one that is there twice, the first.
        special: tokens that stand for no text, and others that were added to the pieces; may exceed the model's rows.
        hidden: numbers of the former.
        make: the tokenizer.
    """

    numbers: Mapping[str, int]
    special: Mapping[str, int]
    hidden: frozenset[int]
    make: Callable[[Specials], Tokenizer] = field(repr=False)


def class_name(config: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What the folder calls its tokenizer, without ``Fast``."""
    name = str(about.get("tokenizer_class") or config.get("tokenizer_class") or "")
    return name if name in _GENERAL else name.removesuffix("Fast")


def read_vocabularies(
    folder: Path, config: Mapping[str, Any], about: Mapping[str, Any], sizes: tuple[int, int]
) -> tuple[Vocabulary, Vocabulary]:
    """Read both sides' vocabularies: the same object where they are one.

    Args:
        folder: of the checkpoint.
        config: its config.json.
        about: its tokenizer_config.json.
        sizes: rows of the model's matrices, source and target.

    Raises:
        ModelFolderError: files are missing, damaged, of a kind that is not supported, or do not fit the model.
        TokenizerError: likewise.
        MissingExtraError: a tokenizer.json, and the library that reads it is not installed.
    """
    name = class_name(config, about)
    if name not in _GENERAL and name.removesuffix("Tokenizer") not in _CLASSES:
        supported = ", ".join(f"{known}Tokenizer" for known in _CLASSES)
        raise ModelFolderError(
            f"{folder}: its tokenizer is a {name}, which is not supported; supported: {supported}, "
            "and tokenizer.json files of these families"
        )
    source, target = _read(folder, config, about, sizes)
    made_up = max(_MADE_UP, _count(about, "num_madeup_words", 0)) if config.get("model_type") == "m2m_100" else 0
    for side, vocabulary, size in (("source", source, sizes[0]), ("target", target, sizes[1])):
        _check_fit(folder, side, vocabulary, size, made_up)
    return source, target


def _check_fit(folder: Path, side: str, vocabulary: Vocabulary, size: int, made_up: int) -> None:
    """The matrix has a row for each token, but for special ones; rows without a token only round its size up."""
    ordinary = 1 + max((n for n in vocabulary.numbers.values() if n not in vocabulary.hidden), default=-1)
    count = 1 + max((*vocabulary.numbers.values(), *vocabulary.special.values()), default=-1)
    rounded = any(-(-count // step) * step == size for step in _ROUND)
    if ordinary > size or (count < size and not rounded and size - count > made_up):
        raise ModelFolderError(
            f"{folder}: the {side} tokenizer has {count} tokens and the model {size}: "
            "the files are not of the same checkpoint"
        )


def _read(
    folder: Path, config: Mapping[str, Any], about: Mapping[str, Any], sizes: tuple[int, int]
) -> tuple[Vocabulary, Vocabulary]:
    is_json = (folder / "tokenizer.json").is_file()
    if about.get("tokenizer_class") == "MarianTokenizer" or (config.get("model_type") == "marian" and not is_json):
        return _marian(folder, about, sizes)
    if class_name(config, about) == "ByT5Tokenizer":
        joint = _bytes(folder, about, sizes[0])
    elif is_json:
        joint = _json_vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"), sizes[0])
    elif (model := _first_file(folder, "sentencepiece.bpe.model", "spiece.model", "sentencepiece.model")) is not None:
        joint = _sentencepiece(folder, model.read_bytes(), config, about, sizes[0])
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        joint = _json_vocabulary(_byte_level(folder), sizes[0])
    else:
        raise ModelFolderError(
            f"{folder}: no tokenizer (tokenizer.json, a SentencePiece model, or vocab.json with merges.txt); "
            f"{_INCOMPLETE}"
        )
    return joint, joint


# -- SentencePiece models


def _marian(folder: Path, about: Mapping[str, Any], sizes: tuple[int, int]) -> tuple[Vocabulary, Vocabulary]:
    """Two SentencePiece models; one table for both, or one each."""
    names = ["vocab.json", "target_vocab.json" if about.get("separate_vocabs") else "vocab.json"]
    if missing := [name for name in ("source.spm", "target.spm", *names) if not (folder / name).is_file()]:
        raise ModelFolderError(f"{folder}: {', '.join(dict.fromkeys(missing))} missing of the tokenizer; {_INCOMPLETE}")
    sides = []
    for model, name, size in zip(("source.spm", "target.spm"), names, sizes, strict=True):
        table = _listed(folder / name, read_json(folder / name))
        marks = ("</s>", "<unk>", "<pad>")
        sides.append(_table((folder / model).read_bytes(), table, size, marks, folder, about, codes=True))
    return sides[0], sides[1]


def _sentencepiece(
    folder: Path, model: bytes, config: Mapping[str, Any], about: Mapping[str, Any], size: int
) -> Vocabulary:
    """The table that a family makes of a SentencePiece model's pieces."""
    processor: Any = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        pieces = [processor.IdToPiece(number) for number in range(processor.vocab_size())]
    except (RuntimeError, OSError):
        raise TokenizerError("its SentencePiece model is truncated or damaged") from None
    head = ["<s>", "<pad>", "</s>", "<unk>"]
    kind, name = config.get("model_type"), class_name(config, about)
    if kind == "m2m_100" and (folder / "vocab.json").is_file():
        codes = WMT21_LANGUAGES if about.get("language_codes") == "wmt21" else M2M100_LANGUAGES
        marks = [f"__{code}__" for code in codes]
        table = [*_listed(folder / "vocab.json", read_json(folder / "vocab.json")), *marks]
    elif kind == "m2m_100" and name.startswith("M2M100"):
        raise ModelFolderError(f"{folder}: vocab.json or tokenizer.json is missing; {_INCOMPLETE}")
    elif kind == "m2m_100":
        marks = [*_nllb_codes(folder, about), "<mask>"]
        table = [*head, *pieces[3:], *marks]
    elif name.startswith("Barthez"):  # its pieces have their own numbers, and the last is <mask>
        marks = ["<mask>"]
        table = [*head, *pieces[4:-1], *marks]
    elif kind == "mbart":
        room = size - len(pieces) - 2  # the pieces move one up, and <mask> comes last
        marks = [*(MBART50_LANGUAGES if room >= len(MBART50_LANGUAGES) else MBART_LANGUAGES), "<mask>"]
        table = [*head, *pieces[3:], *marks]
    elif kind == "pegasus":
        head = ["<pad>", "</s>"]
        marks = ["<mask_1>", "<mask_2>", *(f"<unk_{number}>" for number in range(2, _count(about, "offset", 103)))]
        table = [*head, *marks, *pieces[2:]]
    elif kind in ("t5", "mt5"):
        head = ["<pad>", "</s>"]
        marks = [f"<extra_id_{number}>" for number in reversed(range(_count(about, "extra_ids", 100)))]
        table = [*pieces, *marks]
    else:
        raise ModelFolderError(f"{folder}: a SentencePiece model alone is not supported for models of type {kind}")
    return _table(model, table, size, (*head, "<unk>", *marks), folder, about)


def _nllb_codes(folder: Path, about: Mapping[str, Any]) -> Sequence[str]:
    """The languages in the order of their numbers: as the folder says, otherwise those of NLLB-200."""
    numbered = [(atom.number, atom.text) for atom, _ in _added(folder, about) if _NLLB_CODE.fullmatch(atom.text)]
    listed = [str(code) for code in about.get("additional_special_tokens") or []]
    if numbered:
        return [text for _, text in sorted(numbered)]
    return [code for code in listed if _NLLB_CODE.fullmatch(code)] or NLLB_LANGUAGES


def _table(
    model: bytes,
    table: list[str],
    size: int,
    marks: Iterable[str],
    folder: Path,
    about: Mapping[str, Any],
    *,
    codes: bool = False,
) -> Vocabulary:
    """A vocabulary of a table of pieces.

    Args:
        marks: tokens of the family that stand for no text.
        codes: see :class:`TableTokenizer`.
    """
    numbers = {piece: number for number, piece in reversed(list(enumerate(table)))}
    named = [*marks, *(text for text in map(_content, map(about.get, _NAMED)) if text is not None)]
    named += [text for text in map(_content, about.get("additional_special_tokens") or []) if text is not None]
    hidden = {numbers[text] for text in named if text in numbers}
    # <mask> takes the space before it along, as in fairseq.
    atoms = {text: Atom(text, numbers[text], lstrip=text == "<mask>") for text in named if text in numbers}
    for atom, is_special in _added(folder, about):
        if atom.text not in atoms or "added_tokens_decoder" in about:
            atoms[atom.text] = atom
        if is_special:
            hidden.add(atom.number)
        while len(table) <= atom.number < size:
            table.append(f"<unused {len(table)}>")
        if atom.number < len(table):
            table[atom.number] = atom.text
            numbers.setdefault(atom.text, atom.number)

    def make(specials: Specials) -> Tokenizer:
        return TableTokenizer(model, table, specials, size, codes=codes, atoms=tuple(atoms.values()))

    return Vocabulary(numbers, {atom.text: atom.number for atom in atoms.values()}, frozenset(hidden), make)


def _added(folder: Path, about: Mapping[str, Any]) -> Iterator[tuple[Atom, bool]]:
    """Tokens that were added to the pieces, and whether each is special."""
    place = folder / "tokenizer_config.json"
    added = about.get("added_tokens_decoder") or {}
    for number, token in added.items():
        if not (number.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)):
            raise ModelFolderError(f"{place}: added_tokens_decoder is damaged: get the folder again")
        if token["content"]:
            flags = {name: bool(token.get(name)) for name in ("lstrip", "rstrip", "single_word")}
            yield Atom(token["content"], int(number), **flags), bool(token.get("special"))
    place = folder / "added_tokens.json"
    for text, found in read_json(place).items():
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise ModelFolderError(f"{place}: expected a number for each token; the file is damaged")
        if text and str(found) not in added:
            yield Atom(text, found), False


def _content(token: Any) -> str | None:
    """The text of a special token, which files write as a string or an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _listed(path: Path, numbers: Mapping[str, Any]) -> list[str]:
    """A table of pieces, from their numbers."""
    if not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers.values()):
        raise ModelFolderError(f"{path}: expected a number for each piece; the file is damaged: get the folder again")
    table = [f"<unused {number}>" for number in range(max(numbers.values()) + 1)]
    for piece, number in numbers.items():
        table[number] = piece
    return table


def _count(about: Mapping[str, Any], name: str, default: int) -> int:
    value = about.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ModelFolderError(f"tokenizer_config.json: {name} must be a whole number, not {value!r}")
    return value


def _bytes(folder: Path, about: Mapping[str, Any], size: int) -> Vocabulary:
    """ByT5's, which needs no file: bytes, and behind them the tokens for what was left out in its training."""
    atoms = {text: Atom(text, n, lstrip=True, rstrip=True) for n, text in enumerate(("<pad>", "</s>", "<unk>"))}
    first = FIRST_BYTE + 256
    for number in range(_count(about, "extra_ids", 125)):
        atoms[f"<extra_id_{number}>"] = Atom(f"<extra_id_{number}>", first + number)
    atoms |= {atom.text: atom for atom, _ in _added(folder, about)}
    numbers = {**{f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}, "<unk>": 2}
    special = {atom.text: atom.number for atom in atoms.values()}

    def make(specials: Specials) -> Tokenizer:
        return ByteTokenizer(specials, size, tuple(atoms.values()))

    return Vocabulary(numbers, special, frozenset(special.values()), make)


# -- files of the library tokenizers


def _json_vocabulary(content: str, size: int) -> Vocabulary:
    library = read_tokenizer_json(content)
    added = library.get_added_tokens_decoder()
    hidden = frozenset(number for number, token in added.items() if token.special)

    def make(specials: Specials) -> Tokenizer:
        return JsonTokenizer(content, specials, size)

    special = {token.content: number for number, token in added.items()}
    return Vocabulary(library.get_vocab(with_added_tokens=True), special, hidden, make)


def _byte_level(folder: Path) -> str:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return byte_level_json(read_json(folder / "vocab.json"), merges)


def _first_file(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
