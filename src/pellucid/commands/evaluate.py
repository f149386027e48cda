"""``pellucid evaluate``: translate a corpus and compare with its references.

Knows nothing of models or of how metrics are computed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import engines, options
from pellucid.commands.terminal import one_line, open_output, open_reporter, to_json

__all__ = ["evaluate", "read_test_pairs", "with_test_tag"]

LABELS = {"bleu": "BLEU", "chrf": "chrF", "wer": "WER", "ser": "SER"}


@options.decoding_options(without=("n_best",))
def evaluate(
    model: options.ModelFolder = None,
    sources: Annotated[
        str | None,
        typer.Argument(metavar="SOURCES", help="File with a source text a line; - is stdin.", show_default=False),
    ] = None,
    references: Annotated[
        str | None,
        typer.Argument(metavar="REFERENCES", help="File with its reference on the same line.", show_default=False),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME,...", help="Metrics: bleu, chrf, wer, ser.")
    ] = "bleu,chrf",
    bleu_tokenize: Annotated[
        str, typer.Option("--bleu-tokenize", help="How sacreBLEU splits lines: auto, 13a, zh, char, ...")
    ] = "auto",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the translations, too.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    *,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
    engine: engines.Engine = "auto",
    precision: engines.Precision = "float32",
    workers: engines.Workers = None,
) -> None:
    """Translate a corpus and compare with its references.

    Reports metrics in percent with sacreBLEU's signatures, sentences per second, and how many translations the length
    limit cut. Without SOURCES and REFERENCES the corpus is data.test of the run's config.yaml. A blank source counts as
    translated by nothing. Settings that are not given are the model's own.
    """
    from pellucid import evaluation
    from pellucid.commands.reading import CHUNK_BATCHES, choose_tag, chunked

    names = _known(metric)
    evaluation.evaluate(["x"], ["x"], names, bleu_tokenize=bleu_tokenize)  # what is wrong with them, before the work
    pairs = read_test_pairs(model, sources, references)
    translator = engines.open_generator(
        model,
        device,
        threads,
        engine=engine,
        precision=precision,
        workers=workers,
        source_language=source_language,
        target_language=target_language,
    )
    decoding = with_test_tag(model, sources, decoding)
    translator = choose_tag(translator, decoding)
    config = translator.settings(**decoding, n_best=1)
    generations: list[Any] = []
    texts: list[str] = []
    with open_output(output or os.devnull) as file, open_reporter() as reporter:
        start = time.perf_counter()
        for chunk in chunked(pairs, CHUNK_BATCHES * config.batch_size):
            generations += translator.generate([pair.source for pair in chunk], **{**decoding, "n_best": 1})
            texts += [one_line(generation.text) for generation in generations[len(texts) :]]
            file.writelines(text + "\n" for text in texts[-len(chunk) :])
            reporter.progress("translating", len(generations), len(pairs))
        seconds = time.perf_counter() - start
    scores = evaluation.evaluate(texts, [pair.target for pair in pairs], names, bleu_tokenize=bleu_tokenize)
    facts = {
        "lines": len(pairs),
        **{name: value for name, value in asdict(scores).items() if name.split("_")[0] in names},
        "seconds": round(seconds, 6),
        "sentences_per_second": round(len(pairs) / seconds, 3),
        "search_steps": translator.stats.sentence_steps,
        "search_steps_after_settled": translator.stats.sentence_steps - translator.stats.settled_steps,
        "cut_by_length_limit": sum(g.hypotheses[0].finish_reason == "length" for g in generations if g.hypotheses),
        "decoding": config.model_dump(mode="json"),
    }
    for line in [to_json(facts)] if as_json else _lines(facts, names):
        typer.echo(line)


def _known(metrics: str) -> list[str]:
    """The names in a list separated by commas."""
    from pellucid.errors import ConfigError
    from pellucid.evaluation import METRICS

    names = [name.strip().lower() for name in metrics.split(",")]
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}")
    return names


def read_test_pairs(model: str | None, sources: str | None, references: str | None) -> list[Any]:
    """The pairs of two files, or of the test corpus of the run that the model belongs to."""
    from pellucid.commands.reading import read_corpus
    from pellucid.data.corpus import read_pairs
    from pellucid.errors import ConfigError

    if sources is not None and references is not None:
        return list(read_corpus(sources, references))
    if sources is not None:
        raise ConfigError(f"{sources}: the file with the references is missing: name it behind this one")
    corpus, folder = _test_corpus(model)
    return list(read_pairs(corpus, folder))


def with_test_tag(model: str | None, sources: str | None, decoding: dict[str, Any]) -> dict[str, Any]:
    """The given settings; where the run's test corpus is read, its tag among them, unless another one is given."""
    tag = _test_corpus(model)[0].tag if sources is None else None
    return {"tag": tag, **decoding} if tag else decoding


def _test_corpus(model: str | None) -> tuple[Any, str | None]:
    """The test corpus of the run that the model belongs to, and the folder its paths start from."""
    from pellucid.config import load_config
    from pellucid.errors import ConfigError

    if model is None:
        raise ConfigError("the bundled model has no corpus: name a file with sources and one with references")
    for folder in (Path(model), Path(model).resolve().parent):
        if (folder / "config.yaml").is_file():
            data = load_config(folder / "config.yaml").data
            if data.test is not None:
                return data.test, data.dir
    raise ConfigError(f"{model}: no config.yaml with a data.test: name a file with sources and one with references")


def _lines(facts: dict[str, Any], names: list[str]) -> Iterator[str]:
    yield f"lines         {facts['lines']:,}"
    for name in names:
        signature = facts.get(f"{name}_signature")
        yield f"{LABELS[name]:<14}{facts[name]:.2f}" + (f"   {signature}" if signature else "")
    yield f"sentences/s   {facts['sentences_per_second']:,.1f}   ({facts['seconds']:,.1f} s)"
    decoding = facts["decoding"]
    yield f"decoding      beam_size {decoding['beam_size']}, length_penalty {decoding['length_penalty']}"
    per_line = [facts[name] / max(1, facts["lines"]) for name in ("search_steps", "search_steps_after_settled")]
    yield f"steps         {per_line[0]:.1f} a line, {per_line[1]:.1f} of them to be sure that nothing better comes"
    yield f"cut           {facts['cut_by_length_limit']:,} by the length limit"
