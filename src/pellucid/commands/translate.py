"""``pellucid translate`` and ``pellucid generate``: texts in, texts out, a line each.

Knows nothing of models; reads and writes in windows, so that a file of any length takes the same memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.commands import engines, options
from pellucid.commands.align import Aligner, alignment_fields
from pellucid.commands.streaming import refuse_with_stream, stream_lines
from pellucid.commands.terminal import Pace, PlainReporter, one_line, open_reporter, to_json

if TYPE_CHECKING:
    from pellucid.commands.failures import Failures
    from pellucid.commands.reading import Line
    from pellucid.documents import SplitLine
    from pellucid.errors import PellucidError

__all__ = ["translate"]

JSON_FIELDS = ("text", "tokens", "token_logprobs", "score", "finish_reason")

FREE = ("batch_size",)
"""Settings that may be others when a run is gone on with, because no output depends on them."""


@options.decoding_options()
def translate(
    model: options.ModelFolder = None,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to translate.", show_default=False)
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Read a file, one text a line (also .gz, .zst, .xz); - is stdin.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run has left beside --output FILE.")
    ] = False,
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            metavar="stop|keep-source|blank",
            help="A line that cannot be translated: stop, or write its source or a blank line, and report it.",
        ),
    ] = "stop",
    document: Annotated[
        bool, typer.Option("--document", help="Lines are paragraphs: translate them sentence by sentence.")
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            metavar="CODE",
            help="Language of the text, such as de or zh, for --document to split it by; default: en.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line: source, hypotheses with tokens and log p.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write each part of a text as soon as it is certain, one text at a time.")
    ] = False,
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Write the word alignment behind each text: `text ||| 0-0 1-2`.")
    ] = False,
    alignment_units: options.AlignmentUnits = None,
    alignment_threshold: options.AlignmentThreshold = None,
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
    """Translate texts given as arguments, in a file, or on stdin.

    One line comes out for each line that goes in; a blank line stays blank. Line breaks inside a text become spaces.
    With --n-best above 1 there is a line for each hypothesis, best first: `0 ||| text ||| score`, where 0 is the input
    line, counted from 0, as in Moses and Marian; a blank line has none.

    Settings that are not given are the model's own (`pellucid info FOLDER`); an option whose value is TEXT may be given
    more than once. Lines are read some hundreds at a time; with --batch-size 1 each is answered at once. A line of more
    than 1,048,576 bytes is not translated.

    With --output FILE, what is done is in FILE.part until all of it is, and FILE.part.json says how far it has come.
    After Ctrl-C, an error or a power cut the same command with --resume goes on there; no line is lost or there twice.
    Model, settings and the lines that are done must be the same; --batch-size, --threads and --device need not. A run
    with --resume leaves FILE.done.json, by which a later one knows that FILE is finished, and of what; a FILE without
    it is refused.

    With --on-error a line that cannot be translated keeps its place: as its source or as a blank line; in an n-best
    list as one row with that text and the score -inf.

    With --document each line is split into sentences (pip install 'pellucid[documents]'), and what they become is
    joined again: by a space, or by nothing behind Chinese and Japanese. Indentation and blank lines stay.

    With --stream parts appear while a text is generated: with --beam-size 1 or --sampling token by token, with a wider
    beam what all hypotheses that may still win have in common. The text is the same.

    The native engine computes (on CPUs with AVX-512 VNNI), or PyTorch where it cannot, which is said; --precision int8
    is about twice as fast or more, with nearly the same texts. See docs/native.md.

    With --alignments the links that `pellucid align` describes follow each text: `text ||| 0-0 1-2`, in n-best lists
    `0 ||| text ||| 0-0 1-2 ||| score`, as in Marian; in JSON they are fields of each hypothesis. A line without text
    is blank, without ` ||| `; a row of an n-best list has all its fields, whatever the text.
    """
    from pellucid.commands.failures import Failures
    from pellucid.commands.reading import CHUNK_BATCHES, choose_tag, count_lines, read_texts, windows
    from pellucid.commands.resuming import model_fingerprint, open_sink
    from pellucid.data.text import describe_faults

    split = _splitter(document, language)
    lines, place = read_texts(texts or [], input)
    typed = not texts and input is None and sys.stdin.isatty()
    open_translator = partial(
        engines.open_generator,
        model,
        device,
        threads,
        engine=engine,
        precision=precision,
        workers=workers,
        needs_torch="--alignments looks inside the model" if alignments else None,
        source_language=source_language,
        target_language=target_language,
    )
    if stream:
        refuse_with_stream(
            {
                "--output": output is not None,
                "--json": as_json,
                "--document": document,
                "--alignments": alignments,
                "--on-error": on_error != "stop",
                "--resume": resume,
                "--alignment-units": alignment_units is not None,
                "--alignment-threshold": alignment_threshold is not None,
            }
        )
        translator = choose_tag(open_translator(), decoding)
        stream_lines(translator, lines, place, decoding, sys.stdout)
        return
    with open_sink(output, resume, None if texts else input) as sink:
        failures = Failures(on_error, sink.notes.get("failures", {}))
        translator = choose_tag(open_translator(), decoding)
        config = translator.settings(**decoding)
        aligner = Aligner.wanted(
            alignments, translator, PlainReporter(), config.batch_size, alignment_units, alignment_threshold
        )
        form = _Form(as_json, config.n_best, on_error, document, aligner)
        languages = {"source_language": source_language, "target_language": target_language}
        deciding = {**_deciding(translator, config, form, language), **languages}
        computing = engines.computing(translator)
        sink.begin(lambda: {"model": model_fingerprint(translator), **computing, **deciding}, lines)
        if sink.finished:
            PlainReporter().line(f"{output} is finished: nothing is left to do (without --resume it is made anew)")
            return
        translator.generate([], **decoding)  # what is wrong for every text is no text's fault
        generate, check = (partial(do, **decoding) for do in (translator.generate, translator.check_sources))
        job = _Job(generate, check, split, form, failures, place)
        job.sentences = int(sink.notes.get("sentences", 0))
        quiet, done = typed or sink.shown, sink.lines
        with open_reporter(not quiet) as reporter:
            if typed:
                reporter.line("reading from the terminal, one text a line; Ctrl-D ends")
            pace = Pace(reporter, done, job.sentences, len(texts) if texts else count_lines(input), quiet)
            size = 1 if typed or config.batch_size == 1 else CHUNK_BATCHES * config.batch_size
            for window, broken in windows(lines, size):
                rows, error = job.translate(window)
                if problem := error or broken:
                    sink.add_last(rows)
                    raise problem
                sink.add(rows, window, job.notes())
                done += len(window)
                pace.update(done, job.sentences)
            if pace.end() and engines.could_round(translator):
                reporter.line("--precision int8 is about twice as fast or more, with nearly the same texts")
            for line in failures.report():
                reporter.line(line)
            if faults := describe_faults(translator.placeholder_faults):
                reporter.line(faults)


def _splitter(document: bool, language: str | None) -> Callable[[str], SplitLine]:
    """What takes a line apart; without --document it stays whole."""
    from pellucid.documents import SplitLine, sentence_splitter, split_line
    from pellucid.errors import ConfigError

    if document:
        splitter = sentence_splitter(language or "en")
        return lambda line: split_line(line, splitter)
    if language is not None:
        raise ConfigError("--language is for --document to split by: give both, or neither")
    return lambda line: SplitLine("", [line])


def _deciding(translator: Any, config: Any, form: _Form, language: str | None) -> dict[str, Any]:
    """Everything beside the weights that decides about what is written."""
    settings = {name: value for name, value in config.model_dump(mode="json").items() if name not in FREE}
    aligned = None if form.aligner is None else form.aligner.deciding()
    deciding = {
        **settings,
        "json": form.as_json,
        "document": form.document,
        "language": language,
        "alignments": aligned,
    }
    if config.unknown == "copy":
        from pellucid.alignment import load_heads

        inside = translator.reference
        deciding["copied_by"] = Aligner(inside, load_heads(inside)).deciding()
    return deciding


@dataclass(frozen=True, slots=True)
class _Form:
    """How results are written: as JSON, as an n-best list, or a line each; aligned where there is an aligner.

    A line for a text is blank where the text is, also with alignments. A row of an n-best list has all its fields,
    whatever its text; a line that failed has one row, of score -inf; one that is blank has none.
    """

    as_json: bool
    n_best: int
    on_error: str
    document: bool
    aligner: Aligner | None = None

    def __post_init__(self) -> None:
        from pellucid.errors import ConfigError

        if self.document and self.n_best > 1 and not self.as_json:
            raise ConfigError("--document joins the best of each sentence: with --n-best above 1 add --json")
        if self.document and self.aligner is not None and not self.as_json:
            raise ConfigError(
                "--document joins sentences, and each has an alignment of its own: with --alignments add --json"
            )

    def align(self, results: Sequence[Any]) -> list[list[Any]]:
        """For each result an ``Alignment`` for each of its hypotheses; none where none are wanted."""
        return [[] for _ in results] if self.aligner is None else self.aligner.align_each(results)

    def rows(
        self, line: Line, split: SplitLine, results: Sequence[Any], aligned: Sequence[Sequence[Any]]
    ) -> Iterator[str]:
        """The lines to write for a line of the input.

        Args:
            line: the line; with its error if it could not be read.
            split: its sentences.
            results: for each a ``Generation``, or what went wrong.
            aligned: for each what :meth:`align` gives.
        """
        failed = line.error is not None or any(isinstance(result, Exception) for result in results)
        if self.as_json:
            yield to_json(self._json(line, split, results, aligned))
        elif self.n_best == 1:
            texts = [self._text(text, result) for text, result in zip(split.sentences, results, strict=True)]
            text = one_line(split.joined(texts))
            yield text + self._links(aligned[0], 0) if text and aligned else text
        elif failed:
            text = one_line(self._text(line.text, line.error or results[0]))
            yield f"{line.number - 1} ||| {text}{self._links((), 0)} ||| -inf"
        else:
            for rank, hypothesis in enumerate(results[0].hypotheses):
                text = one_line(hypothesis.text) + self._links(aligned[0], rank)
                yield f"{line.number - 1} ||| {text} ||| {hypothesis.score:.6f}"

    def _links(self, alignments: Sequence[Any], rank: int) -> str:
        """What stands behind a text; a text that was not generated has no links."""
        if self.aligner is None:
            return ""
        return f" ||| {alignments[rank].pharaoh if rank < len(alignments) else ''}"

    def _text(self, source: str, result: Any) -> str:
        if isinstance(result, Exception):
            return source if self.on_error == "keep-source" else ""
        return str(result.text)

    def _json(
        self, line: Line, split: SplitLine, results: Sequence[Any], aligned: Sequence[Sequence[Any]]
    ) -> dict[str, Any]:
        each = zip(split.sentences, results, aligned, strict=True)
        sentences = [self._sentence(text, result, alignments) for text, result, alignments in each]
        if not self.document:
            return sentences[0] | {"source": line.text}
        texts = [self._text(text, result) for text, result in zip(split.sentences, results, strict=True)]
        return {"source": line.text, "text": one_line(split.joined(texts)), "sentences": sentences}

    def _sentence(self, source: str, result: Any, alignments: Sequence[Any]) -> dict[str, Any]:
        if isinstance(result, Exception):
            return {"source": source, "hypotheses": [], "error": str(getattr(result, "reason", result))}
        hypotheses = [{name: getattr(hypothesis, name) for name in JSON_FIELDS} for hypothesis in result.hypotheses]
        for hypothesis, alignment in zip(hypotheses, alignments, strict=False):
            hypothesis.update(alignment_fields(alignment))
        return {"source": source, "hypotheses": hypotheses}


@dataclass(slots=True)
class _Job:
    """The way of lines through a model.

    Attributes:
        generate, check: ``Translator.generate`` and ``check_sources`` with their settings.
        split: a line into what is translated together.
        form: how results are written.
        failures: what has gone wrong so far.
        place: what lines are counted in, for errors.
        sentences: texts handed to the model so far.
    """

    generate: Callable[..., Sequence[Any]]
    check: Callable[..., Mapping[int, PellucidError]]
    split: Callable[[str], SplitLine]
    form: _Form
    failures: Failures
    place: str
    sentences: int = 0

    def notes(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {"sentences": self.sentences, "failures": self.failures.notes()}

    def translate(self, lines: Sequence[Line]) -> tuple[list[str], PellucidError | None]:
        """What is to be written for these lines, and the error that ends it, if one does."""
        from pellucid.commands.failures import generate_each, located
        from pellucid.errors import PellucidError

        # What cannot be read is not split either: it is one text, and its own result.
        parts = [self.split("" if line.error else line.text) for line in lines]
        sources = [sentence for part in parts for sentence in part.sentences]
        generate = partial(self.generate, first_index=self.sentences)
        found = generate_each(generate, sources, self.form.on_error == "stop", self.check)
        results, aligned = iter(found), iter(self.form.align(found))
        self.sentences += len(sources)
        rows: list[str] = []
        for line, part in zip(lines, parts, strict=True):
            own = [next(results) for _ in part.sentences]
            links = [next(aligned) for _ in part.sentences]
            place = f"{self.place} {line.number}"
            errors = [located(result, place) for result in own if isinstance(result, PellucidError)]
            if line.error is not None:
                errors, own, part, links = [line.error], [line.error], type(part)("", [line.text]), [[]]
            if errors:
                if self.form.on_error == "stop":
                    return rows, errors[0]
                self.failures.add(errors[0])
            rows += self.form.rows(line, part, own, links)
        return rows, None
