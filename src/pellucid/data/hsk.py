"""The default data set of ``make demo``: graded Chinese sentences with English, from the package hsk-sentences-audio.

The package's rows are not all usable; :func:`fault` says by general rules which are not and why. The rest is divided
into train, dev and test by a hash of the text, so that no sentence, Chinese or English, is in two of them, not even
with other punctuation.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid.data.punctuation import letters, letters_key
from pellucid.errors import DataError, MissingExtraError
from pellucid.files import replace_folder, write_text

__all__ = ["HskData", "clean_gloss", "fault", "load_hsk", "prepare_hsk", "write_hsk"]

HELD_OUT = 200
"""Rows of dev and of test, about: a group of equal texts is not torn apart."""

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_STAND_IN = re.compile(r"(placeholder|ph|todo|tbd|tba|n/?a|xxx+)([-_ ]\w{1,3}|\d*)", re.IGNORECASE)
_END = re.compile(r"[.!?。！？…][\"'”’)）]*$")
_CHARACTERS_PER_HAN = (1.0, 12.0)

Row = Mapping[str, Any]
TextPair = tuple[str, str]


def fault(chinese: str, english: str) -> str | None:
    """Why a pair cannot be used, or None.

    The rules, in order:

    - *empty*: a side has no letter of any script.
    - *stand-in*: the translation is a word for a translation that was to come (``placeholder``, ``placeholder-p3``,
      ``PH``): learned, it would be the answer to every hard sentence.
    - *untranslated*: Chinese characters in the English side (``The exam is近; prepare well.``).
    - *wrong script*: no Chinese characters in the Chinese side, or Latin letters in it.
    - *not a sentence*: one side ends as a sentence and the other does not: a fragment, or a label left by a template.
    - *question or not*: one side asks and the other does not, so they do not say the same.
    - *length*: fewer than 1 or more than 12 English characters for a Chinese one (the data's own range is 1.6 to 9).
    """
    if not letters(chinese) or not letters(english):
        return "empty"
    if _STAND_IN.fullmatch(english.strip().rstrip(".")):
        return "stand-in"
    if _HAN.search(english):
        return "untranslated"
    if not _HAN.search(chinese) or _LATIN.search(chinese):
        return "wrong script"
    if bool(_END.search(chinese)) != bool(_END.search(english)):
        return "not a sentence"
    if ("？" in chinese or "?" in chinese) != ("?" in english):
        return "question or not"
    ratio = len(english) / len(letters(chinese))
    return None if _CHARACTERS_PER_HAN[0] <= ratio <= _CHARACTERS_PER_HAN[1] else "length"


@dataclass(frozen=True)
class HskData:
    """The divided pairs (Chinese, English).

    Attributes:
        train, dev, test: sentences.
        glosses: words of the training sentences with the first sense of their dictionary entry.
        dropped: rows left out, by reason.
    """

    train: list[TextPair]
    dev: list[TextPair]
    test: list[TextPair]
    glosses: list[TextPair]
    dropped: dict[str, int] = field(default_factory=dict)


def load_hsk() -> HskData:
    """The data set from the installed package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        from hsk_sentences_audio import load_sentences  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("demo", "the default data set") from None
    return prepare_hsk(load_sentences())


def prepare_hsk(rows: Iterable[Row], held_out: int = HELD_OUT) -> HskData:
    """Clean, deduplicate and divide rows with ``chinese``, ``translation["en"]`` and ``tokens`` (word, gloss_en).

    Raises:
        DataError: the rows have another form, or too few are left to divide.
    """
    dropped: Counter[str] = Counter()
    kept: dict[str, tuple[TextPair, list[tuple[str, str | None]]]] = {}
    for row in rows:
        try:
            pair = str(row["chinese"]).strip(), str(row["translation"]["en"]).strip()
            tokens = [(token["word"], token["gloss_en"]) for token in row["tokens"]]
        except (KeyError, TypeError):
            raise DataError("hsk-sentences-audio has another form than version 1.0: install that version") from None
        reason = fault(*pair)
        if reason is None and letters_key(pair[0]) in kept:
            reason = "repeated"  # the first translation of a sentence stays
        if reason is None:
            kept[letters_key(pair[0])] = pair, tokens
        else:
            dropped[reason] += 1
    groups = _groups([pair for pair, _ in kept.values()])
    if sum(map(len, groups)) < 4 * held_out:
        raise DataError(f"only {len(kept)} usable sentences are left, too few to set {2 * held_out} aside")
    test = _take(groups, held_out)
    dev = _take(groups, held_out)
    train = [pair for group in groups for pair in group]
    held = {letters_key(text) for pair in (*test, *dev) for text in pair}
    in_train = {pair[0] for pair in train}
    words = [token for pair, tokens in kept.values() if pair[0] in in_train for token in tokens]
    return HskData(train, dev, test, _glosses(words, held), dict(dropped))


def write_hsk(folder: str | Path, glosses: bool = False, data: HskData | None = None) -> HskData:
    """Write train.tsv, dev.tsv, test.tsv (Chinese, tab, English) and README.md into ``folder``.

    A new folder appears when all of it is written; in one that is there each file is replaced atomically, and what else
    is in it stays.

    Args:
        glosses: append the words and their glosses to train.tsv.
        data: default :func:`load_hsk`.
    """
    data = load_hsk() if data is None else data
    folder = Path(folder)
    if folder.exists():
        _write_files(folder, data, glosses)
    else:
        with replace_folder(folder) as temporary:
            _write_files(temporary, data, glosses)
    return data


def _write_files(folder: Path, data: HskData, glosses: bool) -> None:
    parts = {
        "train.tsv": [*data.train, *data.glosses] if glosses else data.train,
        "dev.tsv": data.dev,
        "test.tsv": data.test,
    }
    for name, pairs in parts.items():
        write_text(folder / name, "".join(f"{source}\t{target}\n" for source, target in pairs))
    write_text(folder / "README.md", _readme(data, glosses))


def clean_gloss(word: str, gloss: str | None) -> str | None:
    """The first sense of a CC-CEDICT entry that can stand as a translation of ``word``, or None.

    Parentheses go; so do senses that are not translations (surnames, variants, notes on use, abbreviations of it) and
    those with ``sb`` and ``sth``, Chinese characters or more than four words. A capital letter in the gloss of a single
    character is a name that sentences hardly ever mean (比: Belgium).
    """
    for sense in re.sub(r"\([^()]*\)", " ", gloss or "").split(";"):
        text = " ".join(sense.split()).strip(" ,.")
        if not text or _HAN.search(text) or re.search(r"[^A-Za-z' -]", text) or len(text.split()) > 4:
            continue
        if re.search(r"\b(sb|sth|etc|abbr|CL|variant|surname|particle|prefix|suffix|classifier|Taiwan)\b", text):
            continue
        if len(word) == 1 and text[:1].isupper() and text != "I":
            continue
        return text
    return None


def _glosses(tokens: Sequence[tuple[str, str | None]], held: set[str]) -> list[TextPair]:
    found: dict[str, str] = {}
    for word, gloss in tokens:
        text = clean_gloss(word, gloss)
        if text is None or word in found or not _HAN.search(word):
            continue
        if not {letters_key(word), letters_key(text)} & held:
            found[word] = text
    return list(found.items())


def _groups(pairs: list[TextPair]) -> list[list[TextPair]]:
    """Pairs that share a text on either side, together; the groups in the order of a hash of their texts."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for chinese, english in pairs:
        parent[root("en " + letters_key(english))] = root("zh " + letters_key(chinese))
    groups: dict[str, list[TextPair]] = {}
    for pair in pairs:
        groups.setdefault(root("zh " + letters_key(pair[0])), []).append(pair)
    return sorted(groups.values(), key=lambda group: min(_digest(letters_key(pair[0])) for pair in group))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _take(groups: list[list[TextPair]], wanted: int) -> list[TextPair]:
    """Remove groups from the front until there are at least ``wanted`` pairs."""
    taken: list[TextPair] = []
    while len(taken) < wanted:
        taken += groups.pop(0)
    return taken


def _readme(data: HskData, glosses: bool) -> str:
    dropped = "\n".join(f"- {reason}: {count}" for reason, count in sorted(data.dropped.items()))
    extra = f" and {len(data.glosses):,} words with a gloss" if glosses else ""
    return f"""# Chinese-English sentences, HSK levels 1 to 6

Source: the Python package [hsk-sentences-audio](https://pypi.org/project/hsk-sentences-audio/)
(<https://github.com/no7z/hsk-sentences-audio>), by the hsk-sentences-audio contributors.
Licence: [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/); these files are under it, too.
The word glosses in the package are from [CC-CEDICT](https://www.mdbg.net/chinese/dictionary?page=cc-cedict), under
CC BY-SA 4.0.

Changed by pellucid: only the simplified text and the English are kept, one pair a line, separated by a tab; rows were
left out (below); the rest was divided by a hash of the text.

- train.tsv: {len(data.train):,} sentences{extra}
- dev.tsv: {len(data.dev):,} sentences
- test.tsv: {len(data.test):,} sentences

Left out, by reason (`pellucid.data.hsk.fault` has the rules):

{dropped}
"""
