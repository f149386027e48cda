"""``pellucid align``: which source word each target word of given pairs comes from; and which heads are to tell.

Knows nothing of attention; reads and writes in chunks, so that files of any length take the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.terminal import open_output, open_reporter, to_json

__all__ = ["Aligner", "align", "alignment_fields", "note_default_heads"]

READINGS = {"write": "the step that predicts a word", "read": "the step whose input is the word"}


@options.decoding_options("tag", "batch_size")
def align(
    sources: Annotated[str, typer.Argument(metavar="SOURCES", help="File with a source text a line; - is stdin.")],
    targets: Annotated[str, typer.Argument(metavar="TARGETS", help="File with a target text a line, aligned with it.")],
    model: options.ModelFolder = None,
    output: options.Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line: source, target, their units, links, weights.")
    ] = False,
    choose_heads: Annotated[
        bool,
        typer.Option("--choose-heads", help="Choose attention heads on these pairs, development data, for the model."),
    ] = False,
    alignment_units: options.AlignmentUnits = None,
    alignment_threshold: options.AlignmentThreshold = None,
    *,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Align the words of given pairs by the model's cross-attention.

    Writes a line for each pair in Pharaoh format, as fast_align does: `0-0 1-2 2-1`, source word, target word, counted
    from 0. Words are what stands between white space; of Chinese and Japanese writing, each character. A target word is
    linked to the source word that gets most of its attention, or to none where more than half goes to </s>. A line is
    blank where a side is.

    Which attention heads are read is the model's choice, made once with --choose-heads on a few hundred development
    pairs and kept in the model folder as alignment.json: the heads that agree best with what hiding each source word
    does to the probability of each target word. For a model without a choice it is the mean of the heads of the
    penultimate decoder layer.
    """
    from pellucid.errors import ConfigError

    if choose_heads:
        given = options.given(output=output, alignment_units=alignment_units, alignment_threshold=alignment_threshold)
        for name in given:
            raise ConfigError(
                f"--{name.replace('_', '-')} and --choose-heads contradict each other: choosing writes no alignments, "
                "but alignment.json into the model folder; give one of the two"
            )
        if model is None:
            raise ConfigError(
                "--choose-heads writes into the model folder, and the bundled model's choice is made: name a model of "
                "your own with --model"
            )
        _choose(model, sources, targets, as_json, decoding, device, threads)
    else:
        choice = options.given(units=alignment_units, threshold=alignment_threshold)
        _align(model, sources, targets, output, as_json, choice, decoding, device, threads)


@dataclass(frozen=True, slots=True)
class Aligner:
    """What ``translate --alignments`` does with its generations.

    Args:
        translator: the model.
        heads: which attention is read.
        choice: ``units`` and ``threshold``, where they were given.
        batch_size: texts per pass.
    """

    translator: Any
    heads: Any
    choice: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    @classmethod
    def wanted(
        cls,
        alignments: bool,
        translator: Any,
        reporter: Any,
        batch_size: int,
        units: str | None,
        threshold: float | None,
    ) -> Aligner | None:
        """None without --alignments.

        Raises:
            ConfigError: a kind of units or a threshold that does not exist, or given without --alignments.
        """
        from pellucid.errors import ConfigError

        choice = options.given(units=units, threshold=threshold)
        if not alignments:
            for name in choice:
                raise ConfigError(f"--alignment-{name} says how to align: give --alignments, too, or leave it out")
            return None
        aligner = cls(translator, note_default_heads(translator, reporter), choice, batch_size)
        aligner.align([])  # what is wrong for every text is no text's fault
        return aligner

    def align(self, generations: Sequence[Any]) -> list[list[Any]]:
        """For each ``Generation`` an ``Alignment`` for each of its hypotheses."""
        from pellucid.alignment import align_generations

        return align_generations(self.translator, generations, self.heads, **self.choice, batch_size=self.batch_size)

    def align_each(self, results: Sequence[Any]) -> list[list[Any]]:
        """The same where some results are errors, or None for want of interest: these have no alignments."""
        there = [result is not None and not isinstance(result, Exception) for result in results]
        found = iter(self.align([result for result, is_there in zip(results, there, strict=True) if is_there]))
        return [next(found) if is_there else [] for is_there in there]

    def deciding(self) -> dict[str, Any]:
        """Everything that decides about the links."""
        return {"heads": [list(head) for head in self.heads.heads], "reading": self.heads.reading, **self.choice}


def note_default_heads(translator: Any, reporter: Any) -> Any:
    """The :class:`~pellucid.alignment.AlignmentHeads` to read; a word on stderr where nobody has chosen them."""
    from pellucid.alignment import load_heads

    heads = load_heads(translator)
    if not heads.report:
        reporter.line(
            f"no attention heads were chosen for this model; alignments are the mean of all heads of decoder layer "
            f"{heads.heads[0][0] + 1} of {translator.model.config.decoder_layers} "
            "(pellucid align --choose-heads, on development data, chooses better ones)"
        )
    return heads


def alignment_fields(alignment: Any) -> dict[str, Any]:
    """What JSON says of an :class:`~pellucid.alignment.Alignment`."""
    return {
        "source_units": alignment.source_units,
        "target_units": alignment.target_units,
        "alignment": [list(link) for link in alignment.links],
        "alignment_weights": [round(weight, 6) for weight in alignment.link_weights],
    }


def _align(
    model: str | None,
    sources: str,
    targets: str,
    output: str | None,
    as_json: bool,
    choice: dict[str, Any],
    decoding: dict[str, Any],
    device: str | None,
    threads: int | None,
) -> None:
    from pellucid.commands.reading import CHUNK_BATCHES, choose_tag, chunked, open_model, read_corpus
    from pellucid.errors import LengthError

    pairs = read_corpus(sources, targets)
    with open_output(output) as file, open_reporter(not file.isatty()) as reporter:
        translator = choose_tag(open_model(model, device, threads), decoding)
        translator.need_source("align")
        from pellucid import alignment

        heads = note_default_heads(translator, reporter)
        batch_size = translator.settings(**decoding).batch_size
        done = 0
        for chunk in chunked(pairs, CHUNK_BATCHES * batch_size):
            texts = [pair.source for pair in chunk], [pair.target for pair in chunk]
            try:
                found = alignment.align(translator, *texts, heads, **choice, batch_size=batch_size)
            except LengthError as error:
                line = chunk[(error.number or 1) - 1].line
                raise LengthError(f"{sources}, {targets}, line {line}: {error.reason}") from None
            for pair, each in zip(chunk, found, strict=True):
                row = {"source": pair.source, "target": pair.target, **alignment_fields(each)}
                file.write((to_json(row) if as_json else each.pharaoh) + "\n")
            file.flush()
            done += len(chunk)
            reporter.progress("aligning", done, 0)


def _choose(
    model: str,
    sources: str,
    targets: str,
    as_json: bool,
    decoding: dict[str, Any],
    device: str | None,
    threads: int | None,
) -> None:
    from pellucid.commands.reading import choose_tag, open_model, read_corpus

    pairs = list(read_corpus(sources, targets))
    translator = choose_tag(open_model(model, device, threads), decoding)
    translator.need_source("align")
    from pellucid.alignment import HEADS_FILE, save_heads
    from pellucid.alignment_heads import choose_heads

    texts = [pair.source for pair in pairs], [pair.target for pair in pairs]
    with open_reporter() as reporter:
        heads = choose_heads(
            translator, *texts, progress=lambda done, total: reporter.progress("choosing heads", done, total)
        )
        if too_long := heads.report["too_long"]:
            reporter.line(f"pairs passed over, longer than the model reads: {too_long:,}")
    save_heads(translator.folder, heads)
    facts = {"heads": [list(head) for head in heads.heads], "reading": heads.reading, **heads.report}
    facts["file"] = str(translator.folder / HEADS_FILE)
    for text in [to_json(facts)] if as_json else _lines(facts):
        typer.echo(text)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    by_layer: dict[int, list[str]] = {}
    for layer, head in facts["heads"]:
        by_layer.setdefault(layer, []).append(str(head))
    heads = "; ".join(f"layer {layer}: {' '.join(numbers)}" for layer, numbers in sorted(by_layer.items()))
    yield f"heads       {heads} (counted from 0), in {READINGS[facts['reading']]}"
    yield (
        f"agreement   {facts['agreement']:.2f} %   of {facts['judged_words']:,} target words whose source word is clear"
        f" (half of the {facts['pairs']:,} pairs, which did not choose)"
    )
    yield f"  default   {facts['default']:.2f} %   all heads of the penultimate layer"
    yield f"  diagonal  {facts['diagonal']:.2f} %   the source word at the same relative place"
    yield f"  chance    {facts['chance']:.2f} %   any source word"
    yield f"written     {facts['file']}"
