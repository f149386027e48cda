"""The text of a run's corpora: read, cleaned, kept in the cache, development pairs set aside, sides compared.

Knows nothing of tokens. A run has one corpus, without a name, or several by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pellucid.config import Config, CorpusConfig
from pellucid.data.corpus import clean_pairs, corpus_digest, corpus_files, read_pairs
from pellucid.data.dataset import TextStore, cache_key, open_texts
from pellucid.data.lines import STDIN
from pellucid.data.report import CorpusReport
from pellucid.data.script import Profile, looks_swapped, profile
from pellucid.errors import DataError

__all__ = ["CorpusTexts", "check_sides", "holdout_rows", "label", "read_corpora"]

Progress = Callable[[str, int], None]
_SAMPLE = 2000  # texts whose characters are compared to notice swapped sides


@dataclass(frozen=True)
class CorpusTexts:
    """The texts of one corpus, or what of it is for one purpose.

    Attributes:
        texts: all that the corpus has.
        rows: the pairs of it that are meant.
        report: what was found in them.
        tag: what stands in front of every source; empty: nothing.
    """

    texts: TextStore
    rows: np.ndarray
    report: CorpusReport
    tag: str = ""


def label(kind: str, name: str, separator: str = "/") -> str:
    """What a corpus is called: ``train``, or ``train/talks`` where there are several."""
    return f"{kind}{separator}{name}" if name else kind


def read_corpora(
    config: Config, cache: Path, progress: Progress | None
) -> tuple[dict[str, CorpusTexts], dict[str, CorpusTexts]]:
    """The training text and the development text of every corpus, by name (empty where there is one alone).

    Raises:
        DataError: a file or line is wrong, nothing is left after cleaning, or too little is there to set some aside.
    """
    data = config.data
    corpora: Mapping[str, CorpusConfig] = data.corpora or ({} if data.train is None else {"": data.train})
    train: dict[str, CorpusTexts] = {}
    dev: dict[str, CorpusTexts] = {}
    own = {name: corpus.dev for name, corpus in data.corpora.items() if corpus.dev is not None}
    for name, corpus in corpora.items():
        texts = _texts(config, corpus, "train", name, cache, progress)
        report, rows, tag = texts.report, np.arange(len(texts)), corpus.tag or ""
        if data.dev is None and not own:
            rows, aside = holdout_rows(texts, data.holdout)
            report.read -= len(aside)
            called = f"{label('dev', name)} (set aside from {label('train', name)})"
            dev[name] = CorpusTexts(texts, aside, CorpusReport(called, len(aside), place=report.place), tag)
        train[name] = CorpusTexts(texts, rows, report, tag)
    for name, held in ({"": data.dev} if data.dev is not None else own).items():
        texts = _texts(config, held, "dev", name, cache, progress)
        dev[name] = CorpusTexts(texts, np.arange(len(texts)), texts.report, held.tag or "")
    return train, dev


def holdout_rows(texts: TextStore, holdout: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose about min(holdout, a tenth) pairs by a hash of the source text; returns (train rows, dev rows).

    Pairs with the same source text go to the same side, so that none of dev's sources is in train, and a pair's side
    does not depend on its place in the corpus.

    Raises:
        DataError: fewer than two different source texts.
    """
    hashes = np.fromiter((_hash(texts.source(row)) for row in range(len(texts))), dtype=np.uint64, count=len(texts))
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) < 2:
        raise DataError(
            "at least two different source texts are needed to set some aside for validation: "
            "give more, or set data.dev"
        )
    room = max(1, min(holdout, len(texts) // 10))
    chosen = []
    for value, count in zip(map(int, values), map(int, counts), strict=True):
        if count <= room:  # a source text with more translations than that stays in train
            chosen.append(value)
            room -= count
        if not room:
            break
    in_dev = np.isin(hashes, np.array(chosen or [values[counts.argmin()]], dtype=np.uint64))
    return np.flatnonzero(~in_dev), np.flatnonzero(in_dev)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _texts(
    config: Config, corpus: CorpusConfig, kind: str, name: str, cache: Path, progress: Progress | None
) -> TextStore:
    try:
        return _read(config, corpus, label(kind, name), cache / f"{label(kind, name, '-')}-texts", progress)
    except DataError as error:
        if not name:
            raise
        setting = f"data.corpora.{name}" + (".dev" if kind == "dev" else "")
        named = DataError(f"{error} (of {setting})")
        named.path, named.line = error.path, error.line
        raise named from None


def _read(config: Config, corpus: CorpusConfig, name: str, into: Path, progress: Progress | None) -> TextStore:
    data = config.data
    files = corpus_files(corpus, data.dir)
    for path in files:
        if str(path) == STDIN or path.is_fifo():
            raise DataError("a training run reads its text again when it resumes: give a file, not a pipe", path=path)
    report = CorpusReport(name, place=str(files[0]))
    texts = open_texts(
        into,
        cache_key("texts", corpus_digest(corpus, data.dir), data.on_bad_line),
        lambda: clean_pairs(read_pairs(corpus, data.dir, data.on_bad_line, report), report),
        report,
        None if progress is None else lambda done: progress(f"read {name}", done),
    )
    if not len(texts):
        raise DataError(f"no pair of {name} is left after cleaning: " + " ".join(texts.report.sentences()))
    return texts


def check_sides(train: Mapping[str, CorpusTexts], dev: Mapping[str, CorpusTexts]) -> None:
    """See that no corpus has its sides the other way round: dev against train, corpora of one tag too.

    Corpora of different tags may go in different directions.

    Raises:
        DataError: one has.
    """
    profiles = {name: _profiles([corpus]) for name, corpus in train.items()}
    every = _profiles(train.values()) if len(train) > 1 else next(iter(profiles.values()))
    for name, corpus in dev.items():
        if looks_swapped(profiles.get(name, every), _profiles([corpus])):
            setting = f"data.corpora.{name}" if name else "data"
            of_train = setting if name else "data.corpora" if len(train) > 1 else "data.train"
            raise DataError(
                f"the two sides of {label('dev', name)} are swapped: its source looks like train's target and its "
                f"target like train's source; exchange source and target of {setting}.dev (or of {of_train})"
            )
    first: dict[str, str] = {}
    for name, corpus in train.items():
        other = first.setdefault(corpus.tag, name)
        if other != name and looks_swapped(profiles[other], profiles[name]):
            raise DataError(
                f"the two sides of data.corpora.{name} are swapped: its source looks like the target of "
                f"data.corpora.{other}, and its target like that one's source; exchange its source and target, or, "
                "where the model shall translate both ways, give each direction a tag of its own"
            )


def _profiles(corpora: Iterable[CorpusTexts]) -> tuple[Profile, Profile]:
    """Of both sides, from a sample of their texts."""
    sources: list[str] = []
    targets: list[str] = []
    for corpus in corpora:
        chosen = corpus.rows[:: max(1, len(corpus.rows) // _SAMPLE)].tolist()
        sources += map(corpus.texts.source, chosen)
        targets += map(corpus.texts.target, chosen)
    return profile(sources), profile(targets)
