"""Make the bundled model, and what was recorded of it, from a run: src/pellucid/models/zh-en and explorer/recorded.

    python scripts/bundle.py runs/zh-en --tatoeba corpora/tatoeba-zh-en

The run is that of recipes/zh-en.yaml. Every number of the model card is measured here, on the model as it is stored;
its texts are model_card.md and model_card.zh.md beside this file. Writes, too: alignment.json (which heads to read),
examples.json (sentences for the explorer, found by scanning the development set), AUTHORS.txt (whose sentences those of
Tatoeba are), and the recorded trace, of which scripts/docs.py then makes docs/explorer.html.
"""

from __future__ import annotations

import argparse
import gzip
import platform
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pellucid import __version__, evaluation
from pellucid.alignment import save_heads
from pellucid.alignment_heads import choose_heads
from pellucid.bundled import BUNDLED, MODELS, RECORDED
from pellucid.commands.convert import save_stored
from pellucid.commands.info import describe
from pellucid.config import CorpusConfig, load_config
from pellucid.data.chinese import converter
from pellucid.data.corpus import Pair, read_pairs
from pellucid.data.hsk import load_hsk
from pellucid.data.punctuation import letters_key, without_final_punctuation
from pellucid.errors import ModelFolderError
from pellucid.files import atomic_file, write_json, write_text
from pellucid.loading import load
from pellucid.results import GeneratedText
from pellucid.tracing.request import MAX_BEAM
from pellucid.tracing.trace import Trace
from pellucid.training.checkpoint import load_progress
from pellucid.translator import Translator

HERE = Path(__file__).resolve().parent
SENTENCE = "我爱中国"
MOST_BYTES = 10_000_000
SHORT_TEXT = 16  # characters of an example: more does not fit into a glance
EACH = 3  # examples of a kind
Texts = tuple[str, str]
AUTHORS = re.compile(r"#\d+ \((.+?)\)(?= & #|$)")  # a name may have parentheses of its own
AUTHORS_HEAD = """\
Authors of the sentences of Tatoeba (https://tatoeba.org) from which the model in this folder was trained or chosen,
each with the number of pairs of sentences they had a part in. The sentences are under CC BY 2.0 FR
(https://creativecommons.org/licenses/by/2.0/fr/), which asks that they be named.
"""
SAID = ("I love Chinese.", "I love China.")
"""First and second of the n-best list for SENTENCE, as the cards tell."""


class Row(NamedTuple):
    """A row of the card's table."""

    name: str
    lines: int
    scores: evaluation.Scores


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--tatoeba", type=Path, required=True, help="train.tsv and dev.tsv with their third column")
    parser.add_argument("--storage", default="int8", choices=("int8", "bfloat16", "float32"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = MODELS / BUNDLED
    folder.parent.mkdir(parents=True, exist_ok=True)
    original = load(options.run, "cpu")
    save_stored(original, folder, options.storage)
    model = load(folder, "cpu")
    config = load_config(options.run / "config.yaml").data
    pairs = {
        "dev": list(read_pairs(_there(config.dev), config.dir)),
        "hsk_dev": list(read_pairs(CorpusConfig(path="hsk_dev.tsv"), config.dir)),
        "hsk_test": list(read_pairs(CorpusConfig(path="hsk_test.tsv"), config.dir)),
    }
    train = list(read_pairs(_there(config.train), config.dir))
    _choose_heads(model, pairs["dev"])
    model = load(folder, "cpu")  # with its heads
    credits = _credits(options.tatoeba)
    authors = _authors(credits.values())
    write_text(folder / "AUTHORS.txt", "\n".join([AUTHORS_HEAD, *authors]) + "\n")
    examples = list(_examples(model, pairs["dev"], credits))
    write_json(folder / "examples.json", examples)
    trace = _record(model)
    if tuple(one.text for one in trace.search.nbest[:2]) != SAID:
        raise ModelFolderError(f"{SENTENCE} is no longer translated as scripts/model_card*.md say: write them anew")
    facts = {
        **_facts(options.run, model, train),
        "authors": f"{len(authors):,}",
        "tatoeba_rows": f"{len(credits):,}",
        "storage": options.storage,
        "sentence": SENTENCE,
        "translation": trace.writings[0].text if trace.writings[0] else "",
        "scores": _table(_evaluate(original, model, pairs)),
        "signatures": _signatures(),
    }
    for suffix in (".md", ".zh.md"):
        text = (HERE / f"model_card{suffix}").read_text(encoding="utf-8").format_map(facts)
        write_text(folder / f"MODEL_CARD{suffix}", text)
    size = sum(path.stat().st_size for place in (folder, RECORDED) for path in place.rglob("*") if path.is_file())
    print(f"{folder}: with the recorded trace {size:,} bytes")
    if size > MOST_BYTES:
        raise ModelFolderError(f"{folder}: {size:,} bytes are more than the {MOST_BYTES:,} that a wheel may bring")


def _there(corpus: CorpusConfig | None) -> CorpusConfig:
    assert corpus is not None, "the run has no such corpus"
    return corpus


def _choose_heads(model: Translator, pairs: Sequence[Pair]) -> None:
    assert model.folder is not None
    save_heads(model.folder, choose_heads(model, [pair.source for pair in pairs], [pair.target for pair in pairs]))


# -- whose sentences they are


def _credits(folder: Path) -> dict[Texts, str]:
    """The third column, by pair."""
    rows = [line.split("\t") for name in ("train", "dev") for line in _lines(folder / f"{name}.tsv")]
    return {(row[0], row[1]): row[2] for row in rows}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _authors(credits: Iterable[str]) -> list[str]:
    """Names with the number of pairs they had a part in, most first."""
    counts = Counter(name for credit in credits for name in set(AUTHORS.findall(credit)))
    return [f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


# -- examples for the explorer


class Found(NamedTuple):
    """What beams of several widths make of one sentence: by width, the best hypothesis and its chrF."""

    pair: Pair
    credit: str
    best: dict[int, GeneratedText]
    near: dict[int, float]

    def gains(self, narrow: int, wide: int) -> bool:
        """Whether the wider beam finds what the model itself thinks better of."""
        return self.best[wide].score > self.best[narrow].score

    def example(self, kind: str, *widths: int) -> dict[str, Any]:
        """As the explorer reads it, to be looked at with the last of these beams."""
        return {
            "text": self.pair.source,
            "kind": kind,
            "beam_size": widths[-1],
            "outputs": [
                {
                    "beam": width,
                    "text": self.best[width].text,
                    "score": round(self.best[width].score, 3),
                    "chrf": round(self.near[width]),
                }
                for width in widths
            ],
            "reference": self.pair.target,
            "credit": self.credit,
        }


def _examples(model: Translator, pairs: Sequence[Pair], credits: Mapping[Texts, str]) -> Iterator[dict[str, Any]]:
    """Sentences by what happens to them, the clearest cases of the development set first.

    ``greedy_loses``: the beam finds what the model itself finds more probable, and it is nearer to the reference.
    ``wide_worse``: a beam twice as wide finds what is more probable still, and it is further from the reference, so it
    is the model that is wrong and not the search. ``plain``: translated as the reference has it.
    """
    usual = model.decoding.beam_size
    wide = min(2 * usual, MAX_BEAM)
    cases = _search_widely([pair for pair in pairs if len(pair.source) <= SHORT_TEXT], model, (1, usual, wide), credits)
    right = [case for case in cases if letters_key(case.best[usual].text) == letters_key(case.pair.target)]
    losing = [case for case in cases if case.gains(1, usual) and case.near[usual] > case.near[1]]
    worse = [case for case in cases if case.gains(usual, wide) and case.near[wide] < case.near[usual]]
    yield {"text": SENTENCE, "kind": "plain", "beam_size": usual, "outputs": [], "reference": "", "credit": ""}
    by_length = sorted(right, key=lambda case: len(case.pair.source))
    for step in range(EACH if right else 0):
        yield by_length[(2 * step + 1) * len(right) // (2 * EACH)].example("plain", usual)
    losing.sort(key=lambda case: case.near[1] - case.near[usual])
    worse.sort(key=lambda case: case.near[wide] - case.near[usual])
    yield from (case.example("greedy_loses", 1, usual) for case in losing[:EACH])
    yield from (case.example("wide_worse", usual, wide) for case in worse[:EACH])
    print(f"examples: of {len(cases)} sentences greedy search loses {len(losing)}, a beam of {wide} {len(worse)}")


def _search_widely(
    pairs: Sequence[Pair], model: Translator, widths: Sequence[int], credits: Mapping[Texts, str]
) -> list[Found]:
    found = {width: model.generate([pair.source for pair in pairs], beam_size=width, n_best=1) for width in widths}
    cases = []
    for place, pair in enumerate(pairs):
        best = {width: found[width][place].hypotheses[0] for width in widths}
        near = {width: _nearness(best[width].text, pair.target) for width in widths}
        cases.append(Found(pair, credits.get((pair.source, pair.target), ""), best, near))
    return cases


def _nearness(text: str, reference: str) -> float:
    """ChrF of one sentence."""
    value = evaluation.evaluate([text], [reference], ("chrf",)).chrf
    assert value is not None
    return value


# -- what was recorded


def _record(model: Translator) -> Trace:
    trace = model.trace(SENTENCE, beam_size=4)
    RECORDED.mkdir(parents=True, exist_ok=True)
    with atomic_file(RECORDED / f"{BUNDLED}.json.gz") as temporary:
        temporary.write_bytes(gzip.compress(trace.to_json().encode(), 9, mtime=0))
    return trace


# -- the card


def _evaluate(original: Translator, model: Translator, pairs: dict[str, list[Pair]]) -> Iterator[Row]:
    """Scores of the stored model, and of the run's own weights beside it."""
    dev = pairs["dev"]
    traditional = converter("traditional")
    bare = [without_final_punctuation(pair.source) for pair in dev]
    beams = model.decoding.beam_size
    sources = [pair.source for pair in dev]
    yield _row(f"Tatoeba dev, beam {beams}", model, sources, dev)
    yield _row("Tatoeba dev, beam 1", model, sources, dev, beam_size=1)
    yield _row(f"Tatoeba dev, beam {beams}, float32", original, sources, dev)
    yield _row(f"Tatoeba dev, beam {beams}, 繁體", model, [traditional(source) for source in sources], dev)
    yield _row(f"Tatoeba dev, beam {beams}, no final punctuation", model, bare, dev)
    for name in ("hsk_dev", "hsk_test"):
        yield _row(f"{name}, beam {beams}", model, [pair.source for pair in pairs[name]], pairs[name])


def _row(name: str, model: Translator, sources: Sequence[str], pairs: Sequence[Pair], **settings: Any) -> Row:
    texts = [generation.text for generation in model.generate(sources, **settings)]
    row = Row(name, len(texts), evaluation.evaluate(texts, [pair.target for pair in pairs], ("bleu", "chrf")))
    print(f"{name}: BLEU {row.scores.bleu:.2f}, chrF {row.scores.chrf:.2f}")
    return row


def _table(rows: Iterator[Row]) -> str:
    lines = ["| | lines | BLEU | chrF |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.lines:,} | {row.scores.bleu:.2f} | {row.scores.chrf:.2f} |" for row in rows]
    return "\n".join(lines)


def _signatures() -> str:
    scores = evaluation.evaluate(["A sentence."], ["A sentence."], ("bleu", "chrf"))
    return f"BLEU `{scores.bleu_signature}`, chrF `{scores.chrf_signature}`"


def _facts(run: Path, model: Translator, train: Sequence[Pair]) -> dict[str, str]:
    """What the card says of the model and of its making."""
    facts = describe(model)
    progress = load_progress(run / "last")
    config = load_config(run / "config.yaml")
    threads = config.training.threads
    hsk = {(source, target) for source, target in load_hsk().train}
    of_hsk = sum((pair.source, pair.target) in hsk for pair in train)
    lengths = sorted(len(pair.source) for pair in train)
    assert model.folder is not None
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "version": __version__,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "parameters": f"{facts['parameters']['total']:,}",
        "bytes": f"{facts['weights']['bytes']:,}",
        "layers": str(facts["model"]["encoder_layers"]),
        "hidden": str(facts["model"]["hidden_size"]),
        "heads": str(facts["model"]["num_heads"]),
        "kv_heads": str(facts["model"]["num_kv_heads"] or facts["model"]["num_heads"]),
        "vocabulary": f"{model.source_tokenizer.vocab_size:,}",
        "pairs": f"{len(train):,}",
        "hsk_pairs": f"{of_hsk:,}",
        "tatoeba_pairs": f"{len(train) - of_hsk:,}",
        "median": str(statistics.median_low(lengths)),
        "most": str(lengths[len(lengths) * 99 // 100]),
        "updates": f"{progress.update:,}",
        "kept": f"{model.document['update']:,}",
        "tokens": f"{progress.target_tokens:,}",
        "minutes": f"{progress.seconds / 60:,.0f}",
        "seed": str(config.seed),
        "threads": str(threads or "所有"),
        "counted_threads": "1 thread" if threads == 1 else f"{threads or 'all'} threads",
    }


if __name__ == "__main__":
    main()
