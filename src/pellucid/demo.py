"""``pellucid demo``: train a small Chinese-English model on a data set from PyPI, evaluate it, and look at it working.

Nothing is staged: what the model says is printed. The settings are in ``demo.yaml`` beside this file and are those that
any ``pellucid train`` takes.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from pellucid.config import Config, load_config
from pellucid.data.hsk import write_hsk
from pellucid.data.lines import read_lines
from pellucid.evaluation import evaluate
from pellucid.experiment import train
from pellucid.heatmap import LEGEND, heatmap
from pellucid.loading import load
from pellucid.training.log import Reporter
from pellucid.translator import GeneratedText, Translator

__all__ = ["run"]

FIRST_SENTENCE = "我爱中国"
HELD_OUT_SENTENCES = 5
BEAM_SIZE = 5

Echo = Callable[[str], None]


def run(output: Path, reporter: Reporter, echo: Echo, overrides: Sequence[str] = ()) -> bool:
    """Write the data set, train (or go on, or use what is there), evaluate and show.

    Args:
        output: the run folder; the data set is in its ``data/``.
        reporter: shows the training.
        echo: takes each line of the report.
        overrides: settings other than those of ``demo.yaml``, as ``key=value``.

    Returns:
        Whether the training is complete; if it was interrupted, nothing is shown.
    """
    config = _config(output, overrides)
    if not (output / "data").is_dir():
        write_hsk(output / "data")
    reporter.line(f"data set: {output / 'data'} (hsk-sentences-audio, CC BY-SA 4.0; see the README.md in it)")
    if not train(config, reporter).finished:
        return False
    translator = load(output)
    pairs = [line.split("\t") for line in read_lines(output / "data" / "test.tsv")]
    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for line in _report(translator, output, sources, references):
        echo(line)
    return True


def _config(output: Path, overrides: Sequence[str]) -> Config:
    settings = yaml.safe_load((Path(__file__).parent / "demo.yaml").read_text(encoding="utf-8"))
    settings["output"] = str(output)
    settings["data"]["dir"] = str(output / "data")
    return load_config(base=settings, overrides=overrides)


def _report(translator: Translator, output: Path, sources: list[str], references: list[str]) -> Iterator[str]:
    for number, source in enumerate([FIRST_SENTENCE, *sources[:HELD_OUT_SENTENCES]]):
        yield ""
        yield f"── {source}"
        if number:
            yield f"   reference  {references[number - 1]}"
        yield from _sentence(translator, source)
    yield ""
    yield f"── {len(sources)} held-out sentences"
    for name, beam_size in (("greedy", 1), (f"beam {BEAM_SIZE}", BEAM_SIZE)):
        texts = [generation.text for generation in translator.generate(sources, beam_size=beam_size, n_best=1)]
        scores = evaluate(texts, references, metrics=("bleu", "chrf"))
        yield f"   {name:<7} BLEU {scores.bleu:.2f}  {scores.bleu_signature}"
        yield f"   {'':<7} chrF {scores.chrf:.2f}  {scores.chrf_signature}"
    yield ""
    yield "── next"
    program = _program()
    yield f"   {program} translate --model {output} {FIRST_SENTENCE}"
    yield f"   {program} translate --model {output} --beam-size 5 --n-best 5 --json {FIRST_SENTENCE}"
    yield f"   {program} info {output}"
    yield f"   {program} train --source your.zh --target your.en --output runs/yours"


def _program() -> str:
    """The program as it can be called from here: a virtual environment need not be active."""
    if shutil.which("pellucid"):
        return "pellucid"
    script = Path(sys.argv[0])
    if script.stem == "pellucid":
        return shlex.quote(_from_here(script))
    return f"{shlex.quote(_from_here(Path(sys.executable)))} -m pellucid"


def _from_here(path: Path) -> str:
    # Not resolve(): the Python of a virtual environment is a link, and what it points to is without the environment.
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _sentence(translator: Translator, source: str) -> Iterator[str]:
    greedy = translator.generate([source], beam_size=1, n_best=1)[0].hypotheses[0]
    beam = translator.generate([source], beam_size=BEAM_SIZE, n_best=1)[0].hypotheses[0]
    yield f"   greedy     {greedy.text}"
    yield f"              {_choice(greedy)}"
    yield f"   beam {BEAM_SIZE}     {beam.text}"
    yield f"              {_choice(beam)}"
    seen = translator.inspect(source, greedy.token_ids)
    layers, heads = seen.cross_attention.shape[:2]
    yield f"   cross-attention of the greedy output, mean of {heads} heads of layer {layers} of {layers}:  {LEGEND}"
    for line in heatmap(seen.target_tokens, seen.source_tokens, seen.cross_attention[-1].mean(0)):
        yield "   " + line
    used, allocated = seen.cache_used, seen.cache_allocated
    yield (
        f"   KV cache: {used.total:,} bytes used (self-attention {used.self_attention:,}, cross-attention "
        f"{used.cross_attention:,}), {allocated.total:,} allocated"
    )


def _choice(hypothesis: GeneratedText) -> str:
    tokens = len(hypothesis.tokens)
    end = "ended by the model with </s>" if hypothesis.finish_reason == "eos" else "cut by the length limit"
    mean = math.exp(sum(hypothesis.token_logprobs) / tokens)
    return f"score {hypothesis.score:.3f}; {tokens} tokens, {end}; {mean:.0%} a token (geometric mean)"
