"""Everything a training run needs from its text, made from a config and kept in the run folder.

Order: read and clean → set development pairs aside → learn the tokenizers → tokenise → checks. All that can be wrong
with the text is found here, before the first update. Knows nothing of models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pellucid.config import Config
from pellucid.data.dataset import TokenDataset, open_tokens
from pellucid.data.mixture import Joined, Mixture, mixture_table
from pellucid.data.reading import CorpusTexts, check_sides, label, read_corpora
from pellucid.data.report import CorpusReport
from pellucid.data.tagging import resolve_tag, tag_ids
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import (
    TOKENIZER_FILE,
    load_rules,
    load_tokenizers,
    save_tokenizers,
    train_tokenizer,
    train_tokenizers,
    unknown_share,
)
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ConfigError, DataError, TokenizerError

__all__ = ["PreparedData", "prepare"]

Progress = Callable[[str, int], None]
GivenTokenizers = tuple[Tokenizer, Tokenizer | None]
_NO_RATIO = float("inf")
_VOCABULARY_PAIRS = 2_000_000  # most pairs to learn a vocabulary from; SentencePiece holds them all in memory


@dataclass(frozen=True)
class PreparedData:
    """Tokenizers, token data sets and what was found on the way.

    Attributes:
        source_tokenizer, target_tokenizer: the same object if the vocabulary is joint.
        rules: what is done to text in front of them.
        train, dev: token data sets; of several corpora all together.
        dev_sources, dev_references: the texts of ``dev``, in its order.
        train_report, dev_report: counts of what was dropped and noticed, where there is one corpus.
        train_parts, dev_parts: the data sets by the corpus's name; where there is one alone, by an empty name.
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
    train_parts: Mapping[str, TokenDataset]
    dev_parts: Mapping[str, TokenDataset]

    @property
    def report(self) -> list[str]:
        """All reports as sentences, and a table of the mixture where there is one."""
        parts = [*self.train_parts.values(), *self.dev_parts.values()]
        found = [sentence for part in parts for sentence in part.report.sentences()]
        return found + mixture_table(self.train) if isinstance(self.train, Mixture) else found

    @property
    def default_tag(self) -> str | None:
        """The tag of the largest corpus where all corpora have one."""
        parts = list(self.train_parts.values())
        return max(parts, key=len).tag if all(part.tag for part in parts) else None


def prepare(
    config: Config,
    folder: Path,
    progress: Progress | None = None,
    cache: Path | None = None,
    given: GivenTokenizers | None = None,
    known_tags: Sequence[str] = (),
) -> PreparedData:
    """Read, clean, split, tokenise and check the text of a run.

    Args:
        config: ``data`` and ``tokenizer`` are used.
        folder: the run folder; tokenizers are in ``folder/tokenizer`` and are learned only if that is not there.
        progress: called now and then with what is being done and the number of pairs so far.
        cache: where texts and tokens are kept; default ``folder/cache``.
        given: tokenizers that are not learned: of both sides, or of the source.
        known_tags: those of the model that a run starts from.

    Raises:
        ConfigError: no training corpus is set, or ``decoding.tag`` is none of the model's tags.
        DataError: a file or line is wrong, nothing is left after cleaning, or the sides of dev are swapped.
        TokenizerError: no vocabulary can be learned, it leaves too much of dev unknown, or it lacks a tag.
        MissingExtraError: traditional script is asked for and OpenCC is not installed.
    """
    data = config.data
    if data.train is None and not data.corpora:
        raise ConfigError("data.train is not set: give source and target, or path")
    if (folder / "tokenizer" / TOKENIZER_FILE).exists():
        known_tags = load_rules(folder / "tokenizer").tags
    rules = replace(TextRules.of(config.tokenizer), tags=tuple(dict.fromkeys((*known_tags, *data.tags))))
    resolve_tag(config.decoding.tag, rules.tags)
    cache = folder / "cache" if cache is None else cache
    train_texts, dev_texts = read_corpora(config, cache, progress)
    check_sides(train_texts, dev_texts)

    tokenizers = _tokenizers(config, folder / "tokenizer", list(train_texts.values()), rules, progress, given)
    tag_ids(tokenizers[0], rules.tags)
    for name, found in dev_texts.items():
        _check_unknown(tokenizers, _TextPairs(found, rules), data.max_unknown, label("dev", name))

    def tokenise(kind: str, name: str, found: CorpusTexts, ratio: float) -> TokenDataset:
        limits = data.max_source_tokens, data.max_target_tokens, ratio
        into = cache / f"{label(kind, name, '-')}-tokens"
        shown = _stage(progress, f"tokenise {label(kind, name)}")
        dataset = open_tokens(into, found.texts, found.rows, tokenizers, limits, found.report, shown, rules, found.tag)
        if not len(dataset):
            raise DataError(f"no pair of {label(kind, name)} is left: " + " ".join(dataset.report.sentences()))
        return dataset

    train = {name: tokenise("train", name, found, data.max_length_ratio) for name, found in train_texts.items()}
    # A pair of very different lengths is a reason to doubt a training pair, not a test that is too hard.
    dev = {name: tokenise("dev", name, found, _NO_RATIO) for name, found in dev_texts.items()}
    weights = [corpus.weight for corpus in data.corpora.values()]
    whole = Mixture(train, weights, data.temperature) if data.corpora else train[""]
    every = dev[""] if "" in dev else Joined(dev, "dev")
    return PreparedData(
        source_tokenizer=tokenizers[0],
        target_tokenizer=tokenizers[1],
        rules=rules,
        train=whole,
        dev=every,
        dev_sources=[every.source_text(i) for i in range(len(every))],
        dev_references=[every.target_text(i) for i in range(len(every))],
        train_report=whole.report,
        dev_report=every.report,
        train_parts=train,
        dev_parts=dev,
    )


def _tokenizers(
    config: Config,
    folder: Path,
    corpora: Sequence[CorpusTexts],
    rules: TextRules,
    progress: Progress | None,
    given: GivenTokenizers | None,
) -> tuple[Tokenizer, Tokenizer]:
    if (folder / TOKENIZER_FILE).exists():
        return load_tokenizers(folder)
    source, target = given or (None, None)
    if source is None or target is None:
        count = sum(len(corpus.rows) for corpus in corpora)
        if progress is not None:
            progress("learn tokenizer", count)
        every = -(-count // _VOCABULARY_PAIRS)  # evenly spread: corpora are often sorted by origin
        pairs = _Chained([_TextPairs(corpus, rules, every) for corpus in corpora])
        if source is None:
            source, target = train_tokenizers(config.tokenizer, pairs, rules.tags)
        else:
            kind = config.tokenizer.target_kind or config.tokenizer.kind
            target = train_tokenizer(config.tokenizer, kind, (pair[1] for pair in pairs), "the target side")
    save_tokenizers(folder, source, target, rules)
    return load_tokenizers(folder)


class _TextPairs:
    """(source, target) texts as the tokenizers get them, iterable more than once, not held in memory."""

    def __init__(self, corpus: CorpusTexts, rules: TextRules, every: int = 1) -> None:
        self._texts, self._rows, self._rules = corpus.texts, corpus.rows[::every], rules

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for row in map(int, self._rows):
            yield self._rules.read_pair(self._texts.source(row), self._texts.target(row))


class _Chained:
    """One behind the other, iterable more than once."""

    def __init__(self, parts: Sequence[Iterable[tuple[str, str]]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return itertools.chain.from_iterable(self._parts)


def _check_unknown(tokenizers: tuple[Tokenizer, Tokenizer], pairs: _TextPairs, allowed: float, corpus: str) -> None:
    for number, (side, tokenizer) in enumerate(zip(("source", "target"), tokenizers, strict=True)):
        found = unknown_share(tokenizer, (pair[number] for pair in pairs))
        if found.share > allowed:
            raise TokenizerError(
                f"the vocabulary leaves {found.share:.1%} of {corpus}'s {side} tokens unknown "
                f"(data.max_unknown is {allowed:.1%}), for example {' '.join(found.examples)}: use more or other "
                "training text, raise tokenizer.character_coverage, or set tokenizer.byte_fallback to true"
            )


def _stage(progress: Progress | None, stage: str) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(stage, done)
