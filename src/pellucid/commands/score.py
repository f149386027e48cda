"""``pellucid score``: how probable given translations are.

Knows nothing of models; reads and writes in chunks, so that files of any length take the same memory.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.terminal import open_output, open_reporter, to_json

__all__ = ["score"]


@options.decoding_options(
    *("length_penalty", "length_alpha", "prefix", "prefix_tokens", "forced_score", "repetition_penalty"),
    *("max_source_length", "tag", "batch_size"),
)
def score(
    sources: Annotated[str, typer.Argument(metavar="SOURCES", help="File with a source text a line; - is stdin.")],
    targets: Annotated[str, typer.Argument(metavar="TARGETS", help="File with a target text a line, aligned with it.")],
    model: options.ModelFolder = None,
    output: options.Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line: source, target, score, tokens, token_logprobs.")
    ] = False,
    *,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Score given translations: a number for each pair of lines.

    Higher is better. The score is the sum of log p (natural logarithm) over the tokens and </s>, divided as the
    length penalty says: what `translate` gives to the same tokens. `--length-penalty none` leaves the sum.

    For a blank source the line stays blank (in JSON: null), as translate has nothing to say to it; a blank target is
    scored like any other. Unequal numbers of lines are an error.
    """
    from pellucid.commands.reading import CHUNK_BATCHES, choose_tag, chunked, open_model, read_corpus
    from pellucid.errors import LengthError

    pairs = read_corpus(sources, targets)
    with open_output(output) as file, open_reporter(not file.isatty()) as reporter:
        translator = open_model(
            model, device, threads, source_language=source_language, target_language=target_language
        )
        translator = choose_tag(translator, decoding)
        done = 0
        for chunk in chunked(pairs, CHUNK_BATCHES * translator.settings(**decoding).batch_size):
            real = [pair for pair in chunk if pair.source.strip()]
            try:
                found = translator.score([pair.source for pair in real], [pair.target for pair in real], **decoding)
            except LengthError as error:
                line = real[(error.number or 1) - 1].line
                raise LengthError(f"{sources}, {targets}, line {line}: {error.reason}") from None
            scores = {pair.line: value for pair, value in zip(real, found, strict=True)}
            for pair in chunk:
                file.write(_written(pair.source, pair.target, scores.get(pair.line), as_json) + "\n")
            file.flush()
            done += len(chunk)
            reporter.progress("scoring", done, 0)


def _written(source: str, target: str, score: Any, as_json: bool) -> str:
    """The line for one ``Score``; None: the source is blank."""
    if not as_json:
        return "" if score is None else f"{score.score:.6f}"
    row: dict[str, Any] = {"source": source, "target": target, "score": None, "tokens": [], "token_logprobs": []}
    if score is not None:
        row |= {"score": score.score, "tokens": score.tokens, "token_logprobs": score.token_logprobs}
    return to_json(row)
