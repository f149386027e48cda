"""A checkpoint folder's tokenizers: which files, which numbers, which special tokens around a text.

Knows the folders' layouts; splitting text is the business of ``data/foreign_tokenizers.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sentencepiece

from pellucid.data.foreign_tokenizers import (
    JsonTokenizer,
    Specials,
    TableTokenizer,
    byte_level_json,
    read_tokenizer_json,
)
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ConfigError, ModelFolderError, TokenizerError
from pellucid.interop.huggingface.files import read_json
from pellucid.interop.huggingface.languages import (
    M2M100_LANGUAGES,
    MBART50_LANGUAGES,
    MBART_LANGUAGES,
    WMT21_LANGUAGES,
)

__all__ = ["Languages", "load_tokenizers"]

_CONFIG_FILE = "tokenizer_config.json"
_SPARE = 1024
"""Rows that a matrix may have beyond its vocabulary: some checkpoints fill it up to a round number."""


@dataclass(frozen=True, slots=True)
class Languages:
    """From which language into which, as the model's codes name them; None: as the checkpoint says."""

    source: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What one side's numbers mean, before its special tokens are known."""

    numbers: Mapping[str, int]
    hidden: tuple[int, ...]
    make: Any  # (Specials) -> Tokenizer

    @property
    def size(self) -> int:
        return max(self.numbers.values(), default=-1) + 1


def load_tokenizers(
    folder: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    sizes: tuple[int, int],
    languages: Languages,
) -> tuple[Tokenizer, Tokenizer, int | None]:
    """Read the tokenizers of a checkpoint.

    Args:
        folder: of the checkpoint.
        config: its config.json.
        generation: its generation_config.json.
        sizes: vocabularies of the model, source and target.
        languages: for models that know several.

    Returns:
        (source, target): the same object if they are alike; and the token that outputs must begin with, if the
        languages demand one.

    Raises:
        ModelFolderError: files are missing, damaged or do not fit the model.
        ConfigError: a language that the model does not know, or none where it must be said.
        MissingExtraError: a tokenizer.json, and the library that reads it is not installed.
    """
    about = read_json(folder / _CONFIG_FILE)
    try:
        source, target = _vocabularies(folder, config, about, sizes)
    except TokenizerError as error:
        raise ModelFolderError(f"{folder}: {error}") from None
    for side, vocabulary, size in (("source", source, sizes[0]), ("target", target, sizes[1])):
        if not size - _SPARE <= vocabulary.size <= size:
            raise ModelFolderError(
                f"{folder}: the {side} tokenizer has {vocabulary.size} tokens and the model {size}: "
                "the files are not of the same checkpoint"
            )
    plain = [_plain(folder, config, generation, vocabulary) for vocabulary in (source, target)]
    framed_source, framed_target, first = _framed(folder, config, about, generation, (source, target), plain, languages)
    alike = source is target and framed_source == framed_target
    try:
        made = source.make(framed_source)
        return made, made if alike else target.make(framed_target), first
    except TokenizerError as error:
        raise ModelFolderError(f"{folder}: {error}") from None


# -- the vocabularies


def _vocabularies(
    folder: Path, config: Mapping[str, Any], about: Mapping[str, Any], sizes: tuple[int, int]
) -> tuple[_Vocabulary, _Vocabulary]:
    if config.get("model_type") == "marian":
        return _marian(folder, about, sizes)
    if (folder / "tokenizer.json").is_file():
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
        joint = _json_vocabulary(content, sizes[0])
    elif (model := _first_file(folder, "sentencepiece.bpe.model", "spiece.model", "sentencepiece.model")) is not None:
        joint = _sentencepiece(folder, model.read_bytes(), config, about, sizes[0])
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        joint = _json_vocabulary(_byte_level(folder), sizes[0])
    else:
        raise ModelFolderError(
            f"{folder}: no tokenizer (tokenizer.json, a SentencePiece model, or vocab.json with merges.txt); "
            "the folder is incomplete: download all of it"
        )
    return joint, joint


def _marian(folder: Path, about: Mapping[str, Any], sizes: tuple[int, int]) -> tuple[_Vocabulary, _Vocabulary]:
    """Two SentencePiece models; one table for both, or one each."""
    names = ["vocab.json", "target_vocab.json" if about.get("separate_vocabs") else "vocab.json"]
    if missing := [name for name in ("source.spm", "target.spm", *names) if not (folder / name).is_file()]:
        raise ModelFolderError(
            f"{folder}: {', '.join(dict.fromkeys(missing))} missing of the tokenizer; "
            "the folder is incomplete: download all of it"
        )
    sides = []
    for model, name, size in zip(("source.spm", "target.spm"), names, sizes, strict=True):
        table = _listed(folder / name, read_json(folder / name))
        sides.append(_table_vocabulary((folder / model).read_bytes(), table, size, _added(about), codes=True))
    return sides[0], sides[1]


def _listed(path: Path, numbers: Mapping[str, Any]) -> list[str]:
    """A table of pieces, from their numbers."""
    if not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers.values()):
        raise ModelFolderError(f"{path}: expected a number for each piece; the file is damaged: get the folder again")
    table = [f"<unused {number}>" for number in range(max(numbers.values()) + 1)]
    for piece, number in numbers.items():
        table[number] = piece
    return table


def _sentencepiece(
    folder: Path, model: bytes, config: Mapping[str, Any], about: Mapping[str, Any], size: int
) -> _Vocabulary:
    """The table that a family makes of a SentencePiece model's pieces."""
    processor: Any = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        pieces = [processor.IdToPiece(number) for number in range(processor.vocab_size())]
    except (RuntimeError, OSError):
        raise TokenizerError("its SentencePiece model is truncated or damaged") from None
    kind = config.get("model_type")
    if kind == "m2m_100":
        if not (folder / "vocab.json").is_file():
            raise ModelFolderError(f"{folder}: vocab.json or tokenizer.json is missing; download all of the folder")
        table = _listed(folder / "vocab.json", read_json(folder / "vocab.json"))
        codes = WMT21_LANGUAGES if about.get("language_codes") == "wmt21" else M2M100_LANGUAGES
        marks = [f"__{code}__" for code in codes]
        table += marks
    elif kind in ("mbart", "bart"):
        marks = [*_mbart_languages(config, about), "<mask>"]
        table = ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], *marks]
    elif kind == "pegasus":
        offset = int(about.get("offset", 103))
        marks = ["<mask_1>", "<mask_2>", *(f"<unk_{number}>" for number in range(2, offset))]
        table = ["<pad>", "</s>", *marks, *pieces[2:]]
    else:
        marks = [f"<extra_id_{number}>" for number in reversed(range(int(about.get("extra_ids", 100))))]
        table = [*pieces, *marks][:size]
    numbers = {piece: number for number, piece in enumerate(table)}
    hidden = tuple(numbers[mark] for mark in marks if mark in numbers)
    return _table_vocabulary(model, table, size, (*_added(about), *hidden))


def _table_vocabulary(
    model: bytes, table: Sequence[str], size: int, hidden: tuple[int, ...], *, codes: bool = False
) -> _Vocabulary:
    def make(specials: Specials) -> Tokenizer:
        return TableTokenizer(model, table, specials, size, codes=codes)

    return _Vocabulary({piece: number for number, piece in enumerate(table)}, hidden, make)


def _json_vocabulary(content: str, size: int) -> _Vocabulary:
    library = read_tokenizer_json(content)
    added = library.get_added_tokens_decoder()
    hidden = tuple(number for number, token in added.items() if token.special)

    def make(specials: Specials) -> Tokenizer:
        return JsonTokenizer(content, specials, size)

    return _Vocabulary(library.get_vocab(with_added_tokens=True), hidden, make)


def _byte_level(folder: Path) -> str:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return byte_level_json(read_json(folder / "vocab.json"), merges)


def _added(about: Mapping[str, Any]) -> tuple[int, ...]:
    added = about.get("added_tokens_decoder") or {}
    return tuple(int(number) for number, token in added.items() if isinstance(token, dict) and token.get("special"))


def _first_file(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


# -- the special tokens


def _plain(folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any], vocabulary: _Vocabulary) -> Specials:
    """Special tokens without any before or behind a text."""

    def number(name: str) -> int | None:
        value = generation.get(name, config.get(name))
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) else None

    eos, pad = number("eos_token_id"), number("pad_token_id")
    start = number("decoder_start_token_id")
    start = number("bos_token_id") if start is None else start
    unknown = next((vocabulary.numbers[name] for name in ("<unk>", "[UNK]") if name in vocabulary.numbers), pad)
    if eos is None or pad is None or start is None or unknown is None:
        names = {"eos_token_id": eos, "pad_token_id": pad, "decoder_start_token_id": start}
        missing = next((name for name, value in names.items() if value is None), "<unk>")
        raise ModelFolderError(f"{folder}: neither config.json nor generation_config.json says what {missing} is")
    return Specials(pad, unknown, start, eos, hidden=tuple(sorted(set(vocabulary.hidden))))


def _framed(
    folder: Path,
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    generation: Mapping[str, Any],
    vocabularies: tuple[_Vocabulary, _Vocabulary],
    plain: Sequence[Specials],
    languages: Languages,
) -> tuple[Specials, Specials, int | None]:
    """What stands around texts of both sides; and the token forced by the languages, if one is."""
    kind = config.get("model_type")
    source, target = plain
    codes = _Codes(folder, vocabularies[0].numbers)
    if kind in ("mbart", "m2m_100"):
        forced = generation.get("forced_bos_token_id", config.get("forced_bos_token_id"))
        default = "en_XX" if kind == "mbart" else "eng_Latn" if "eng_Latn" in codes.numbers else "en"
        spoken = codes.number(languages.source or about.get("src_lang") or default)
        wanted = languages.target or (None if isinstance(forced, int) else about.get("tgt_lang"))
        is_old = kind == "mbart" and _mbart_languages(config, about) is MBART_LANGUAGES
        written = codes.number(wanted) if wanted else target.bos if is_old else forced
        if not isinstance(written, int) or (is_old and written == target.eos):
            raise ConfigError(
                f"{folder}: this model writes many languages: name one with target_language (--target-language), "
                f"e.g. {codes.example()}"
            )
        behind = is_old or bool(about.get("legacy_behaviour"))
        if behind:  # `text </s> code`
            source = replace(source, suffix=(source.eos,), eos=spoken, hidden=(*source.hidden, source.eos))
        else:
            source = replace(source, prefix=(spoken,))
        if is_old:
            return source, replace(target, bos=written), None
        return source, replace(target, prefix=(written,)), written
    if languages.source is not None or (languages.target is not None and kind != "marian"):
        raise ConfigError(f"{folder}: this model has no codes for languages: leave source and target language away")
    if languages.target is not None:
        return replace(source, prefix=(codes.number(languages.target, ">>{}<<"),)), target, None
    start = vocabularies[0].numbers.get("<s>")
    if kind == "bart" and start is not None:
        return replace(source, prefix=(start,)), replace(target, prefix=(start,)), None
    return source, target, None


def _mbart_languages(config: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[str, ...]:
    name = str(about.get("tokenizer_class") or config.get("tokenizer_class") or "")
    is_new = name.startswith("MBart50") if name else config.get("vocab_size") == 250054
    return MBART50_LANGUAGES if is_new else MBART_LANGUAGES


@dataclass(frozen=True, slots=True)
class _Codes:
    """The tokens that stand for languages."""

    folder: Path
    numbers: Mapping[str, int]

    def number(self, language: str, form: str = "__{}__") -> int:
        for name in (language, form.format(language)):
            if name in self.numbers:
                return self.numbers[name]
        known = sorted(piece for piece in self.numbers if _looks_like_code(piece))
        near = difflib.get_close_matches(form.format(language), known, 3, 0.3)
        near += [code for code in difflib.get_close_matches(language, known, 3, 0.3) if code not in near]
        hint = f"; near: {', '.join(code.strip('_><') for code in near)}" if near else ""
        raise ConfigError(f"{self.folder}: the model has no token for the language {language!r}{hint}")

    def example(self) -> str:
        return next((code for code in ("deu_Latn", "de_DE", "__de__") if code in self.numbers), "de").strip("_")


def _looks_like_code(piece: str) -> bool:
    stripped = piece.strip("_")
    return (
        (piece.startswith("__") and piece.endswith("__"))
        or (piece.startswith(">>") and piece.endswith("<<"))
        or (stripped[2:3] == "_" and stripped[3:].isupper() and len(stripped) == 5)
        or (stripped[3:4] == "_" and len(stripped) == 8 and stripped[4:].isalpha())
    )
