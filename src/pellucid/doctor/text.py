"""What text shows by itself: pairs that are in two places, that were dropped, that repeat, or that are damaged.

Knows nothing of scripts and languages (scripts.py) nor of alignment (pairing.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pellucid.config import Config
from pellucid.data.corpus import corpus_files, read_pairs
from pellucid.data.dataset import TokenDataset
from pellucid.data.lines import STDIN
from pellucid.data.overlap import Overlap, find_overlap, normalised
from pellucid.data.prepare import PreparedData
from pellucid.data.reading import label
from pellucid.data.report import CorpusReport, Reason
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.doctor.results import Check, absent, judge, percent
from pellucid.doctor.scripts import SAMPLE, Sides
from pellucid.errors import PellucidError

__all__ = ["check_text", "has_markup", "is_damaged"]

LEAKED = 0.02
"""Share of dev's pairs that may be in train, too: greetings and headings come twice by nature."""
LEAKED_SOURCES = 0.10
IDENTICAL = 0.10
DROPPED = 0.05
REPEATED = 0.30
COMMONEST = 0.20
DAMAGED = 0.01
UNKNOWN = 0.02
SPELLED = 0.10

# UTF-8 that was read as Latin-1 or Windows-1252 and written again, and what stands for bytes that were lost.
_WINDOWS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_LOST = re.compile("\ufffd|ï»¿")
_MOJIBAKE = re.compile(
    f"[ÃÂÐÑÎÏ][\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹Œ‘“”•™š›œžŸ€]|â€[\u0080-\u00bf{_WINDOWS}]|[æåäãçéè][\u0080-\u00bf{_WINDOWS}]{{2}}"
)
_MARKS = frozenset("\u00a0«»‘’‚“”„…–—‹›•")
"""What stands behind an accented letter in good text: "fatigué\u00a0»" is UTF-8 for a Chinese character, too."""
_MARKUP = re.compile(
    r"</[a-zA-Z][\w-]*\s*>|<[a-zA-Z][\w-]*(?:\s[^<>]*)?/>|<[a-zA-Z][\w-]*\s[^<>]*=[^<>]*>|&(?:[a-z]{2,6}|#\d{2,5});"
)
"""A tag that is closed, that closes itself, or that has attributes: List<int> is none of these."""
_LEADING = re.compile(r"\A\s*<[\w-]+/?>")
"""A mark of language or origin at the beginning: <de>, <BT>."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")


def check_text(
    config: Config, data: PreparedData, train: Mapping[str, Sides], progress: Callable[[int], None] | None = None
) -> Iterator[Check]:
    """Every check of this file.

    Args:
        config: where a test corpus is.
        data: the run's text.
        train: a sample of each of its corpora, by name.
        progress: called now and then with the number of training pairs read.
    """
    corpora, instead = _corpora(config, data)
    wanted = {source for rows, _ in corpora.values() for source, _ in rows}
    overlaps = {label("train", name): find_overlap(part, wanted, progress) for name, part in data.train_parts.items()}
    for which, (rows, place) in corpora.items():
        yield _leak(which, rows, overlaps, place)
    if instead is not None:
        yield instead
    for name, part in data.train_parts.items():
        sides = train[name]
        yield _copies(part, sides, overlaps[sides.name])
        yield from _commonest(sides)
        yield _identical(part.report, sides.name)
    for part in (*data.train_parts.values(), *data.dev_parts.values()):
        yield from _dropped(part.report)
    for sides in train.values():
        yield _damaged(sides)
        yield _markup(sides)
    yield from _unknown(data)


Rows = Sequence[tuple[str, str]]


def _corpora(config: Config, data: PreparedData) -> tuple[dict[str, tuple[Rows, str]], Check | None]:
    """Dev and test, normalised, with the file each is in; and what is to be said where there is no test."""
    corpora: dict[str, tuple[Rows, str]] = {}
    for of, part in data.dev_parts.items():
        dev = [(normalised(part.source_text(i)), normalised(part.target_text(i))) for i in range(len(part))]
        corpora[label("dev", of)] = dev, part.report.place
    name = "test: in train, too"
    if config.data.test is None:
        return corpora, absent(name, "no data.test")
    try:
        files = corpus_files(config.data.test, config.data.dir)
        if any(str(path) == STDIN or path.is_fifo() for path in files):
            return corpora, absent(name, "data.test can be read only once")
        pairs = read_pairs(config.data.test, config.data.dir, config.data.on_bad_line)
        test = [(normalised(pair.source.strip()), normalised(pair.target.strip())) for pair in pairs]
    except (PellucidError, OSError) as error:
        return corpora, Check(name, "suspicious", "cannot be read", f"data.test cannot be read: {error}")
    return {**corpora, "test": (test, str(files[0]))}, None


def _leak(which: str, rows: Rows, overlaps: Mapping[str, Overlap], place: str) -> Check:
    both = [number for number, key in enumerate(rows) if any(key in overlap.pairs for overlap in overlaps.values())]
    only = [n for n, key in enumerate(rows) if any(key[0] in overlap.sources for overlap in overlaps.values())]
    figure = (
        f"{percent(len(both), len(rows))} of its pairs (at most {LEAKED:.0%}), {percent(len(only), len(rows))} of its "
        f"sources (at most {LEAKED_SOURCES:.0%})"
    )
    pairwise = len(both) > LEAKED * len(rows)
    bad = pairwise or len(only) > LEAKED_SOURCES * len(rows)
    found, what = (both, "pairs") if pairwise or not bad else (only, "sources")
    first = ""
    if found:
        key = rows[found[0]]
        seen = (name for name, overlap in overlaps.items() if (key in overlap.pairs if found is both else True))
        name = next(name for name in seen if key[0] in overlaps[name].sources)
        first = f"its pair {found[0] + 1:,} is in line {overlaps[name].sources[key[0]]:,} of {name}"
    sentence = (
        f"{len(found):,} of {len(rows):,} {what} of {which} ({place}) are in train as well, without regard to case, "
        f"punctuation and spaces ({first}): scores on {which} tell what was learned by heart: take them out of train"
    )
    # A few are usual, and still worth a line: the sentence of a check that is satisfied.
    return Check(f"{which}: in train, too", "suspicious" if bad else "ok", figure, sentence if found else "")


def _copies(dataset: TokenDataset, train: Sides, overlap: Overlap) -> Check:
    name, pairs = f"{train.name}: pairs repeat", len(dataset)
    if pairs < 50:
        return absent(name, "too few pairs to tell")
    return judge(
        name,
        overlap.copies > REPEATED * pairs,
        f"{percent(overlap.copies, pairs)} (at most {REPEATED:.0%})",
        f"{percent(overlap.copies, pairs)} of {train.name}'s pairs are copies of others ({train.place}), at most "
        f"{REPEATED:.0%} is usual: the file may have been joined with itself: remove the repeated lines",
    )


def _commonest(train: Sides) -> Iterator[Check]:
    if len(train.lines) < 50:
        return
    for side, texts in zip(("source", "target"), train.texts, strict=True):
        (text, count), *_ = Counter(texts).most_common(1)
        shown = text if len(text) <= 40 else text[:40] + "…"
        yield judge(
            f"{train.name}: one {side} for many",
            count > COMMONEST * len(texts),
            f"the commonest is {percent(count, len(texts))} (at most {COMMONEST:.0%})",
            f"{percent(count, len(texts))} of {train.name}'s {side}s are the same text, “{shown}” (first seen: "
            f"{train.at(texts.index(text))}), at most {COMMONEST:.0%} is usual: probably another column or file was "
            f"meant: check data.train",
        )


def _identical(report: CorpusReport, name: str) -> Check:
    count = report.count("identical")
    return judge(
        f"{name}: both sides the same",
        count > IDENTICAL * max(1, report.read),
        f"{percent(count, report.read)} (at most {IDENTICAL:.0%})",
        f"{count:,} of {name}'s {report.read:,} pairs ({percent(count, report.read)}) have the same text on both sides "
        f"({_first(report, 'identical')}), at most {IDENTICAL:.0%} is usual: the model would learn to copy the source: "
        "take untranslated pairs out",
    )


def _dropped(report: CorpusReport) -> Iterator[Check]:
    reasons: dict[Reason, tuple[str, str]] = {
        "empty": ("have an empty side", "fill them in, or take the lines out of both files"),
        "too_long": (
            "are longer than data.max_source_tokens or data.max_target_tokens",
            "raise these limits, or split the texts into sentences",
        ),
        "ratio": (
            "have sides that differ in length by more than data.max_length_ratio",
            "raise it, or see whether the sides belong together",
        ),
        "bad_line": ("are not UTF-8 or have too few columns", "mend them"),
    }
    name = report.name.split()[0]
    for reason, (what, remedy) in reasons.items():
        count = report.count(reason)
        yield judge(
            f"{name}: dropped, {reason.replace('_', ' ')}",
            count > DROPPED * max(1, report.read),
            f"{percent(count, report.read)} (at most {DROPPED:.0%})",
            f"{count:,} of {name}'s {report.read:,} pairs ({percent(count, report.read)}) are dropped because they "
            f"{what} ({_first(report, reason)}), at most {DROPPED:.0%} is usual: {remedy}",
        )


def _first(report: CorpusReport, reason: Reason) -> str:
    return f"first: {report.first(reason)}" if report.count(reason) else ""


def _damaged(train: Sides) -> Check:
    found = _where(is_damaged, train)
    return judge(
        f"{train.name}: damaged encoding",
        len(found) > DAMAGED * len(train.lines),
        f"{percent(len(found), len(train.lines))} of the pairs (at most {DAMAGED:.0%})",
        f"{percent(len(found), len(train.lines))} of {train.name}'s pairs have traces of UTF-8 that was read as "
        f"another encoding (first seen: {train.at(found[0] if found else 0)}), as in Ã¼ for ü: "
        "convert the original file again",
    )


def _markup(train: Sides) -> Check:
    found = _where(has_markup, train)
    return judge(
        f"{train.name}: markup in the text",
        len(found) > DROPPED * len(train.lines),
        f"{percent(len(found), len(train.lines))} of the pairs (at most {DROPPED:.0%})",
        f"{percent(len(found), len(train.lines))} of {train.name}'s pairs have tags or entities of HTML or XML (first "
        f"seen: {train.at(found[0] if found else 0)}), at most {DROPPED:.0%} is usual: the model would write them, "
        "too: strip them",
    )


def _where(fault: Callable[[str], bool], sides: Sides) -> list[int]:
    pairs = zip(*sides.texts, strict=True)
    return [number for number, pair in enumerate(pairs) if any(map(fault, pair))]


def is_damaged(text: str) -> bool:
    """Whether UTF-8 has been read as another encoding, or bytes were lost."""
    return bool(_LOST.search(text)) or any(_was_utf8(found[0]) for found in _MOJIBAKE.finditer(text))


def _was_utf8(text: str) -> bool:
    """Whether characters are the bytes of others: they decode, and are not a letter with its punctuation."""
    if len(text) == 3 and text[0] != "â" and _MARKS.issuperset(text[1:]):
        return False
    try:
        b"".join(c.encode("latin-1") if ord(c) < 256 else c.encode("cp1252") for c in text).decode()
    except UnicodeError:
        return False
    return True


def has_markup(text: str) -> bool:
    """Whether there are tags or entities, other than a mark at the beginning."""
    return bool(_MARKUP.search(_LEADING.sub("", text)))


def _unknown(data: PreparedData) -> Iterator[Check]:
    """Tokens that are <unk>, and characters spelled as bytes, on each side of both corpora.

    What is unknown in dev beyond data.max_unknown has been refused while the text was prepared.
    """
    parts = [(label("train", name), part) for name, part in data.train_parts.items()]
    parts += [(label("dev", name), part) for name, part in data.dev_parts.items()]
    for name, dataset in parts:
        for number, tokenizer in enumerate((data.source_tokenizer, data.target_tokenizer)):
            side = ("source", "target")[number]
            count = min(SAMPLE, len(dataset))
            rows = [place * len(dataset) // count for place in range(count)]
            tokens = [dataset.target(row) if number else dataset.source(row) for row in rows]
            total = sum(map(len, tokens))
            unknown = [row for row, ids in zip(rows, tokens, strict=True) if (ids == tokenizer.unk_id).any()]
            share = sum(int((ids == tokenizer.unk_id).sum()) for ids in tokens) / total
            examples = " ".join(tokenizer.unknown(dataset.read_pair(unknown[0])[number])[:5]) if unknown else ""
            yield judge(
                f"{name}: unknown {side} tokens",
                share > UNKNOWN,
                f"{share:.2%} (at most {UNKNOWN:.0%})",
                f"{share:.1%} of {name}'s {side} tokens are <unk> (for example {examples}), at most {UNKNOWN:.0%} is "
                "usual: the model would learn to write it, or could not read them: raise tokenizer.character_coverage, "
                "or set tokenizer.byte_fallback to true",
            )
            if spelled := _bytes(tokenizer):
                share = sum(int(np.isin(ids, spelled).sum()) for ids in tokens) / total
                yield judge(
                    f"{name}: {side} spelled as bytes",
                    share > SPELLED,
                    f"{share:.2%} of its tokens (at most {SPELLED:.0%})",
                    f"{share:.1%} of {name}'s {side} tokens are single bytes, at most {SPELLED:.0%} is usual: its "
                    f"characters are not in the vocabulary, and three bytes or more stand for each: raise "
                    "tokenizer.vocab_size or character_coverage, or train on text in these letters",
                )


def _bytes(tokenizer: Tokenizer) -> list[int]:
    """The numbers of the pieces that are single bytes, where those are the last resort: none where all pieces are."""
    if tokenizer.kind == "bytes":
        return []
    pieces = tokenizer.pieces(range(min(tokenizer.vocab_size, 512)))
    return [number for number, piece in enumerate(pieces) if _BYTE.fullmatch(piece)]
