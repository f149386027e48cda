"""Everything a training run needs from its text, made from a config and kept in the run folder.

Order: read and clean → set development pairs aside → learn the tokenizers → tokenise → checks. All that can be wrong
with the text is found here, before the first update. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pellucid.config import Config, CorpusConfig
from pellucid.data.corpus import clean_pairs, corpus_digest, corpus_files, read_pairs
from pellucid.data.dataset import TextStore, TokenDataset, cache_key, open_texts, open_tokens
from pellucid.data.lines import STDIN
from pellucid.data.report import CorpusReport
from pellucid.data.script import looks_swapped, profile
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import (
    TOKENIZER_FILE,
    load_tokenizers,
    save_tokenizers,
    train_tokenizer,
    train_tokenizers,
    unknown_share,
)
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ConfigError, DataError, TokenizerError

__all__ = ["PreparedData", "holdout_rows", "prepare"]

Progress = Callable[[str, int], None]
GivenTokenizers = tuple[Tokenizer, Tokenizer | None]
_NO_RATIO = float("inf")
_VOCABULARY_PAIRS = 2_000_000  # most pairs to learn a vocabulary from; SentencePiece holds them all in memory
_SAMPLE = 2000  # texts whose characters are compared to notice swapped sides


@dataclass(frozen=True)
class PreparedData:
    """Tokenizers, token data sets and what was found on the way.

    Attributes:
        source_tokenizer, target_tokenizer: the same object if the vocabulary is joint.
        rules: what is done to text in front of them.
        train, dev: token data sets.
        dev_sources, dev_references: the texts of ``dev``, in its order.
        train_report, dev_report: counts of what was dropped and noticed.
    """

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    rules: TextRules
    train: TokenDataset
    dev: TokenDataset
    dev_sources: list[str]
    dev_references: list[str]
    train_report: CorpusReport
    dev_report: CorpusReport

    @property
    def report(self) -> list[str]:
        """Both reports as sentences."""
        return [*self.train_report.sentences(), *self.dev_report.sentences()]


def prepare(
    config: Config,
    folder: Path,
    progress: Progress | None = None,
    cache: Path | None = None,
    given: GivenTokenizers | None = None,
) -> PreparedData:
    """Read, clean, split, tokenise and check the text of a run.

    Args:
        config: ``data`` and ``tokenizer`` are used.
        folder: the run folder; tokenizers are in ``folder/tokenizer`` and are learned only if that is not there.
        progress: called now and then with what is being done and the number of pairs so far.
        cache: where texts and tokens are kept; default ``folder/cache``.
        given: tokenizers that are not learned: of both sides, or of the source.

    Raises:
        ConfigError: no training corpus is set.
        DataError: a file or line is wrong, nothing is left after cleaning, or the sides of dev are swapped.
        TokenizerError: no vocabulary can be learned, or it leaves too much of dev unknown.
        MissingExtraError: traditional script is asked for and OpenCC is not installed.
    """
    data = config.data
    rules = TextRules.of(config.tokenizer)
    if data.train is None:
        raise ConfigError("data.train is not set: give source and target, or path")
    cache = folder / "cache" if cache is None else cache
    texts = _texts(config, data.train, "train", cache, progress)
    train_report = texts.report
    if data.dev is None:
        dev_texts = texts
        train_rows, dev_rows = holdout_rows(texts, data.holdout)
        train_report.read -= len(dev_rows)
        dev_report = CorpusReport("dev (set aside from train)", read=len(dev_rows), place=train_report.place)
    else:
        dev_texts = _texts(config, data.dev, "dev", cache, progress)
        train_rows, dev_rows = np.arange(len(texts)), np.arange(len(dev_texts))
        dev_report = dev_texts.report
    _check_swapped(texts, train_rows, dev_texts, dev_rows)

    source, target = tokenizers = _tokenizers(config, folder / "tokenizer", texts, train_rows, rules, progress, given)
    _check_unknown(tokenizers, _TextPairs(dev_texts, dev_rows, rules), data.max_unknown)

    longest = data.max_source_tokens, data.max_target_tokens
    train = open_tokens(
        cache / "train-tokens",
        texts,
        train_rows,
        tokenizers,
        (*longest, data.max_length_ratio),
        train_report,
        _stage(progress, "tokenise train"),
        rules,
    )
    # A pair of very different lengths is a reason to doubt a training pair, not a test that is too hard.
    dev = open_tokens(
        cache / "dev-tokens",
        dev_texts,
        dev_rows,
        tokenizers,
        (*longest, _NO_RATIO),
        dev_report,
        _stage(progress, "tokenise dev"),
        rules,
    )
    for dataset, name in ((train, "train"), (dev, "dev")):
        if not len(dataset):
            raise DataError(f"no pair of {name} is left: " + " ".join(dataset.report.sentences()))
    return PreparedData(
        source_tokenizer=source,
        target_tokenizer=target,
        rules=rules,
        train=train,
        dev=dev,
        dev_sources=[dev.source_text(i) for i in range(len(dev))],
        dev_references=[dev.target_text(i) for i in range(len(dev))],
        train_report=train.report,
        dev_report=dev.report,
    )


def holdout_rows(texts: TextStore, holdout: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose about min(holdout, a tenth) pairs by a hash of the source text; returns (train rows, dev rows).

    Pairs with the same source text go to the same side, so that none of dev's sources is in train, and a pair's side
    does not depend on its place in the corpus.

    Raises:
        DataError: fewer than two different source texts.
    """
    hashes = np.array([_hash(texts.source(row)) for row in range(len(texts))], dtype=np.uint64)
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) < 2:
        raise DataError(
            "at least two different source texts are needed to set some aside for validation: "
            "give more, or set data.dev"
        )
    room = max(1, min(holdout, len(texts) // 10))
    chosen = []
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if count <= room:  # a source text with more translations than that stays in train
            chosen.append(value)
            room -= count
        if not room:
            break
    in_dev = np.isin(hashes, np.array(chosen or [values[counts.argmin()]], dtype=np.uint64))
    return np.flatnonzero(~in_dev), np.flatnonzero(in_dev)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _texts(config: Config, corpus: CorpusConfig, name: str, cache: Path, progress: Progress | None) -> TextStore:
    data = config.data
    files = corpus_files(corpus, data.dir)
    for path in files:
        if str(path) == STDIN or path.is_fifo():
            raise DataError("a training run reads its text again when it resumes: give a file, not a pipe", path=path)
    report = CorpusReport(name, place=str(files[0]))
    texts = open_texts(
        cache / f"{name}-texts",
        cache_key("texts", corpus_digest(corpus, data.dir), data.on_bad_line),
        lambda: clean_pairs(read_pairs(corpus, data.dir, data.on_bad_line, report), report),
        report,
        _stage(progress, f"read {name}"),
    )
    if not len(texts):
        raise DataError(f"no pair of {name} is left after cleaning: " + " ".join(texts.report.sentences()))
    return texts


def _tokenizers(
    config: Config,
    folder: Path,
    texts: TextStore,
    rows: np.ndarray,
    rules: TextRules,
    progress: Progress | None,
    given: GivenTokenizers | None,
) -> tuple[Tokenizer, Tokenizer]:
    if (folder / TOKENIZER_FILE).exists():
        return load_tokenizers(folder)
    source, target = given or (None, None)
    if source is None or target is None:
        if progress is not None:
            progress("learn tokenizer", len(rows))
        every = -(-len(rows) // _VOCABULARY_PAIRS)  # evenly spread: corpora are often sorted by origin
        pairs = _TextPairs(texts, rows[::every], rules)
        if source is None:
            source, target = train_tokenizers(config.tokenizer, pairs)
        else:
            kind = config.tokenizer.target_kind or config.tokenizer.kind
            target = train_tokenizer(config.tokenizer, kind, (pair[1] for pair in pairs), "the target side")
    save_tokenizers(folder, source, target, rules)
    return load_tokenizers(folder)


class _TextPairs:
    """(source, target) texts of some rows as the tokenizers get them, iterable more than once, not held in memory."""

    def __init__(self, texts: TextStore, rows: np.ndarray, rules: TextRules) -> None:
        self._texts, self._rows, self._rules = texts, rows, rules

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for row in self._rows.tolist():
            yield self._rules.read_pair(self._texts.source(row), self._texts.target(row))


def _check_swapped(texts: TextStore, rows: np.ndarray, dev_texts: TextStore, dev_rows: np.ndarray) -> None:
    profiles = []
    for store, numbers in ((texts, rows), (dev_texts, dev_rows)):
        chosen = numbers[:: max(1, len(numbers) // _SAMPLE)].tolist()
        profiles.append((profile(map(store.source, chosen)), profile(map(store.target, chosen))))
    if looks_swapped(profiles[0], profiles[1]):
        raise DataError(
            "the two sides of dev are swapped: its source looks like train's target and its target like train's "
            "source; exchange source and target of data.dev (or of data.train)"
        )


def _check_unknown(tokenizers: tuple[Tokenizer, Tokenizer], pairs: _TextPairs, allowed: float) -> None:
    for number, (side, tokenizer) in enumerate(zip(("source", "target"), tokenizers, strict=True)):
        found = unknown_share(tokenizer, (pair[number] for pair in pairs))
        if found.share > allowed:
            raise TokenizerError(
                f"the vocabulary leaves {found.share:.1%} of dev's {side} tokens unknown "
                f"(data.max_unknown is {allowed:.1%}), for example {' '.join(found.examples)}: use more or other "
                "training text, raise tokenizer.character_coverage, or set tokenizer.byte_fallback to true"
            )


def _stage(progress: Progress | None, stage: str) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(stage, done)
