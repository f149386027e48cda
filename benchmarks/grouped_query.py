"""Models that differ in their key/value heads: scores, bytes of the KV cache, speed of decoding, in one table.

    python benchmarks/grouped_query.py SOURCES REFERENCES RUN [RUN ...] [--beam-size 5] [--runs 3] [--threads 2]

SOURCES and REFERENCES are aligned text files (.gz too). Cache bytes are measured on a cache of real size: those of a
target token in self-attention (for each beam) and of a source token in cross-attention (once per sentence). Speed is
sentences a second over all lines, sorted by length, in batches as ``translate`` makes them; the models take turns, and
medians are quoted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch

import pellucid
from pellucid.data.lines import read_lines
from pellucid.evaluation import metric_value
from pellucid.translator import Translator

MEASURED_TOKENS = 64


def cache_bytes(translator: Translator) -> tuple[int, int]:
    """(self-attention, cross-attention) bytes a token."""
    model = translator.model
    with torch.inference_mode():
        source = torch.ones(1, MEASURED_TOKENS, dtype=torch.int64)
        mask = torch.ones_like(source, dtype=torch.bool)
        cache = model.start_cache(model.encode(source, mask), mask)
        for position in range(MEASURED_TOKENS):
            model.step(source[:, position], cache)
    used = cache.used_bytes()
    return used.self_attention // MEASURED_TOKENS, used.cross_attention // MEASURED_TOKENS


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("references", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sources, references = list(read_lines(options.sources)), list(read_lines(options.references))
    models = {name: pellucid.load(name, device="cpu") for name in options.models}
    beams = (1, options.beam_size)
    seconds: dict[tuple[str, int], list[float]] = {(name, beam): [] for name in models for beam in beams}
    outputs: dict[tuple[str, int], list[str]] = {}
    for _ in range(options.runs):
        for (name, beam), times in seconds.items():
            start = time.perf_counter()
            found = models[name].generate(sources, beam_size=beam, n_best=1)
            times.append(time.perf_counter() - start)
            outputs[name, beam] = [each.text for each in found]
    wide = f"beam {options.beam_size}"
    columns = ["model", "key/value heads: self, cross", "parameters", "cache bytes a token: self, cross"]
    columns += ["BLEU greedy", wide, "sentences/s greedy", wide]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, translator in models.items():
        config = translator.model.config
        own, cross = cache_bytes(translator)
        scores = " | ".join(f"{metric_value('bleu', outputs[name, beam], references):.2f}" for beam in beams)
        speeds = " | ".join(f"{len(sources) / median(seconds[name, beam]):.1f}" for beam in beams)
        parameters = sum(parameter.numel() for parameter in translator.model.parameters())
        heads = f"{config.self_kv_heads}, {config.cross_kv_heads} of {config.num_heads}"
        print(f"| {name} | {heads} | {parameters:,} | {own:,}, {cross:,} | {scores} | {speeds} |", flush=True)


if __name__ == "__main__":
    main()
