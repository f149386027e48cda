"""``pellucid bench``: how fast a model generates on this machine, by each engine.

Knows nothing of engines; opens each, lets it work for some seconds, and shows a table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import engines, options
from pellucid.commands.terminal import PlainReporter, to_json

__all__ = ["bench"]

WAYS = (("native", "int8"), ("native", "float32"), ("torch", "float32"))
HEAD = ("engine", "precision", "beam", "at once", "sentences/s", "tokens/s", "peak MiB")
WIDTHS = (6, 9, 4, 7, 11, 8, 8)
FIRST = 8
"""Texts that say how many there is time for."""


def bench(
    model: options.ModelArgument = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Texts to generate from, one a line; default: what the run folder kept, else made up.",
            show_default=False,
        ),
    ] = None,
    sentences: Annotated[
        int, typer.Option("--sentences", "-n", metavar="N", min=16, help="Texts to use at most.")
    ] = 512,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.1, help="About how long each measurement takes.")
    ] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    *,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    threads: options.Threads = None,
) -> None:
    """Measure how fast a model generates on this machine.

    For each engine that can run it and each precision: greedy search and the model's own settings, in batches and one
    text at a time. Rates are of texts in and texts out, tokenising included; the first texts, which load what is loaded
    later, do not count. Peak is the most memory that the process has had so far. Other programs that run slow it down.
    """
    from pellucid.commands.check import sources_for

    rows: list[tuple[str, ...]] = []
    origin = ""
    for engine, precision in WAYS:
        translator = _opened(model, threads, engine, precision, source_language, target_language)
        if translator is None:
            continue
        texts, origin = sources_for(translator, model or str(translator.folder), input, sentences)
        own = translator.settings()
        for beam in dict.fromkeys((1, own.beam_size)):
            for batch in (own.batch_size, 1):
                rate, tokens = _rate(translator, texts, beam, batch, seconds)
                row = (engine, precision, str(beam), str(batch), f"{rate:,.1f}", f"{tokens:,.0f}", f"{_peak():,.0f}")
                if not as_json and not rows:
                    typer.echo(f"sources: {origin}\n{_line(HEAD)}")
                rows.append(row)
                if not as_json:
                    typer.echo(_line(row))
    if as_json:
        facts = [dict(zip(HEAD, row, strict=True)) for row in rows]
        typer.echo(to_json({"sources": origin, "results": facts}, indent=2))


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def _opened(model: str | None, threads: int | None, engine: str, precision: str, *languages: str | None) -> Any:
    """The model in that engine; None where it cannot run there, which is said."""
    from pellucid.errors import ConfigError
    from pellucid.native.build import NativeUnavailableError
    from pellucid.native_loading import load_native

    if engine == "native":
        try:
            load_native(model, source_language=languages[0], target_language=languages[1])
        except NativeUnavailableError as error:
            if precision == "int8":
                PlainReporter().line(f"the native engine is left out, because {error}")
            return None
        except ConfigError:
            pass  # it is said below
    return engines.open_generator(
        model,
        "cpu",
        threads,
        engine=engine,
        precision=precision,
        source_language=languages[0],
        target_language=languages[1],
    )


def _rate(translator: Any, texts: Sequence[str], beam: int, batch: int, seconds: float) -> tuple[float, float]:
    """Sentences and tokens a second."""
    settings: dict[str, Any] = {"beam_size": beam, "n_best": 1, "batch_size": batch}

    def run(chosen: Sequence[str]) -> tuple[float, int]:
        start = time.perf_counter()
        if batch > 1:
            found = translator.generate(chosen, **settings)
        else:
            found = [one for text in chosen for one in translator.generate([text], **settings)]
        took = time.perf_counter() - start
        return took, sum(len(one.hypotheses[0].token_ids) for one in found if one.hypotheses)

    run(texts[:FIRST])
    took, _ = run(texts[:FIRST])
    chosen = list(texts)[: max(FIRST, int(seconds * FIRST / max(took, 1e-6)))]
    took, tokens = run(chosen)
    return len(chosen) / took, tokens / took


def _peak() -> float:
    """The most memory this process has had, in MiB; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
