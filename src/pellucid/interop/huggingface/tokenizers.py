"""A checkpoint folder's tokenizers: which special tokens stand around a text, and which of them are languages.

Which files there are, and which number each token has, is the business of ``vocabularies.py``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ConfigError, ModelFolderError, TokenizerError
from pellucid.interop.huggingface.folder import read_json
from pellucid.interop.huggingface.generation import effective
from pellucid.interop.huggingface.languages import MBART50_LANGUAGES, MBART_LANGUAGES
from pellucid.interop.huggingface.vocabularies import Vocabulary, class_name, read_vocabularies

__all__ = ["Languages", "Tokenizers", "load_tokenizers"]

_CONFIG_FILE = "tokenizer_config.json"
_CODE = re.compile(r"__\w+__|>>[^<]*<<|[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}")
_NO_LANGUAGE = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")


@dataclass(frozen=True, slots=True)
class Languages:
    """From which language into which, as the model's codes name them; None: as the checkpoint says."""

    source: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """What was found.

    Attributes:
        source, target: the same object if they are alike.
        first: the token that outputs must begin with, if the languages demand one.
        awaits: a language that could be named; None unless the model writes many and none has been.
    """

    source: Tokenizer
    target: Tokenizer
    first: int | None = None
    awaits: str | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """The special tokens of both sides; otherwise as :class:`Tokenizers`."""

    source: Specials
    target: Specials
    first: int | None = None
    awaits: str | None = None


def load_tokenizers(
    folder: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    sizes: tuple[int, int],
    languages: Languages,
) -> Tokenizers:
    """Read the tokenizers of a checkpoint.

    Args:
        folder: of the checkpoint.
        config: its config.json.
        generation: its generation_config.json.
        sizes: vocabularies of the model, source and target.
        languages: for models that know several.

    Raises:
        ModelFolderError: files are missing, damaged or do not fit the model.
        ConfigError: a language that the model does not know.
        MissingExtraError: a tokenizer.json, and the library that reads it is not installed.
    """
    about = read_json(folder / _CONFIG_FILE)
    try:
        source, target = read_vocabularies(folder, config, about, sizes)
        plain = [
            _plain(folder, config, generation, vocabulary, size)
            for vocabulary, size in zip((source, target), sizes, strict=True)
        ]
        codes = _Codes(folder, _codes(source), sizes[0])
        frame = _framed(folder, config, about, generation, codes, source.numbers, plain, languages)
        made = source.make(frame.source)
        alike = source is target and frame.source == frame.target
        return Tokenizers(made, made if alike else target.make(frame.target), frame.first, frame.awaits)
    except TokenizerError as error:
        raise ModelFolderError(f"{folder}: {error}") from None


def _plain(
    folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any], vocabulary: Vocabulary, size: int
) -> Specials:
    """Special tokens without any before or behind a text."""

    def number(name: str) -> int | None:
        value = config.get(name) if generation.get(name) is None else generation[name]
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
    hidden = sorted(number for number in vocabulary.hidden if number < size)  # a <mask> may have no row
    return Specials(pad, unknown, start, eos, hidden=tuple(hidden))


def _framed(
    folder: Path,
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    generation: Mapping[str, Any],
    codes: _Codes,
    numbers: Mapping[str, int],
    plain: Sequence[Specials],
    languages: Languages,
) -> _Frame:
    """What stands around texts of both sides."""
    kind = config.get("model_type")
    source, target = plain
    if about.get("text_frame") == "eos":  # an exported model of ours, whatever its family
        kind = "marian"
    name = class_name(config, about)
    if kind in ("mbart", "m2m_100") and not name.startswith("Barthez"):
        is_old = kind == "mbart" and not _is_mbart50(folder, name, codes)
        forced = effective(config, generation).get("forced_bos_token_id")
        return _many_languages(kind, is_old, about, forced, codes, (source, target), languages)
    if languages.source is not None or (languages.target is not None and not (kind == "marian" and codes.numbers)):
        raise ConfigError(f"{folder}: this model has no codes for languages: leave source and target language away")
    if languages.target is not None:
        return _Frame(replace(source, prefix=(codes.number(languages.target, ">>{}<<"),)), target)
    start = numbers.get("<s>")
    if start is not None and (kind == "bart" or name.startswith(("Roberta", "Barthez"))):
        return _Frame(replace(source, prefix=(start,)), replace(target, prefix=(start,)))
    return _Frame(source, target)


def _many_languages(
    kind: str,
    is_old: bool,
    about: Mapping[str, Any],
    forced: Any,
    codes: _Codes,
    plain: tuple[Specials, Specials],
    languages: Languages,
) -> _Frame:
    """mBART (``is_old``), mBART-50, M2M-100 and NLLB: codes before or behind a source, and at the start of a target."""
    source, target = plain
    form = "__{}__" if kind == "m2m_100" else "{}"
    default = "en_XX" if kind == "mbart" else "eng_Latn" if "eng_Latn" in codes.numbers else "en"
    spoken = codes.number(languages.source or about.get("src_lang") or default, form)
    wanted = languages.target or (None if isinstance(forced, int) else about.get("tgt_lang"))
    written = codes.number(wanted, form) if wanted else target.bos if is_old else forced
    if is_old or about.get("legacy_behaviour"):  # `text </s> code`
        source = replace(source, suffix=(source.eos,), eos=spoken, hidden=(*source.hidden, source.eos))
    else:
        source = replace(source, prefix=(spoken,))
    if not isinstance(written, int) or (is_old and written == target.eos):
        return _Frame(source, target, awaits=codes.example())
    if is_old:
        return _Frame(source, replace(target, bos=written))
    return _Frame(source, replace(target, prefix=(written,)), written)


def _is_mbart50(folder: Path, name: str, codes: _Codes) -> bool:
    """Whether an mBART is one of 50 languages, by its vocabulary; the name of its tokenizer must not contradict."""
    is_new = any(code in codes.numbers for code in MBART50_LANGUAGES[len(MBART_LANGUAGES) :])
    named = {"MBartTokenizer": False, "MBart50Tokenizer": True}.get(name, is_new)
    if named != is_new:
        held = "codes of mBART-50" if is_new else "none of the codes that mBART-50 added"
        raise ModelFolderError(
            f"{folder}: tokenizer_config.json says {name}, and the vocabulary has {held}: "
            "the files are not of the same checkpoint"
        )
    return is_new


# -- languages


def _codes(vocabulary: Vocabulary) -> dict[str, int]:
    """The tokens that may stand for languages: never an ordinary piece, which may be written like one (``de``)."""
    shaped = {piece: number for piece, number in vocabulary.numbers.items() if _CODE.fullmatch(piece)}
    return {text: number for text, number in {**shaped, **vocabulary.special}.items() if text not in _NO_LANGUAGE}


@dataclass(frozen=True, slots=True)
class _Codes:
    """The tokens that stand for languages, in a model with ``size`` rows."""

    folder: Path
    numbers: Mapping[str, int]
    size: int

    def number(self, language: str, form: str = "{}") -> int:
        for name in (form.format(language), language):
            if self.numbers.get(name, self.size) < self.size:
                return self.numbers[name]
        known = sorted(code for code in self.numbers if _CODE.fullmatch(code))
        near = difflib.get_close_matches(form.format(language), known, 3, 0.3)
        near += [code for code in difflib.get_close_matches(language, known, 3, 0.3) if code not in near]
        hint = f"; near: {', '.join(code.strip('_><') for code in near)}" if near else ""
        raise ConfigError(f"{self.folder}: the model has no token for the language {language!r}{hint}")

    def example(self) -> str:
        return next((code for code in ("deu_Latn", "de_DE", "__de__") if code in self.numbers), "de").strip("_")
