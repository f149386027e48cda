"""Greedy decoding with and without the KV cache: time per step, and the ratio of the whole.

    python benchmarks/cache.py [--length 200] [--batch 1] [--runs 5] [--threads 2]

An untrained model of preset `small` writes exactly --length tokens (</s> is ignored), so that both write as many. Runs
alternate inside one call; medians are quoted. Both must write the same tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from pellucid.config import ModelConfig
from pellucid.decoding.model_step import CachedStep, UncachedStep
from pellucid.model.transformer import EncoderDecoder

VOCABULARY = 8000
SHOWN_STEPS = (1, 10, 25, 50, 100, 150, 200)

Step = CachedStep | UncachedStep


def write(make: Callable[[], Step], batch: int, length: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each step, and the tokens [batch, length]."""
    step = make()
    tokens, offsets = np.full(batch, 2), np.zeros((batch, 1))
    seconds, written = [], []
    for _ in range(length):
        start = time.perf_counter()
        tokens = step(tokens).best(offsets, 1).tokens[:, 0]
        seconds.append(time.perf_counter() - start)
        written.append(tokens)
    return seconds, np.stack(written, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--source", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    model = EncoderDecoder(ModelConfig(preset="small"), VOCABULARY, VOCABULARY).eval()
    source = torch.randint(4, VOCABULARY, (options.batch, options.source))
    mask = torch.ones_like(source, dtype=torch.bool)
    makers: dict[str, Callable[[], Step]] = {
        "cached": lambda: CachedStep(model, source, mask),
        "uncached": lambda: UncachedStep(model, source, mask),
    }
    runs: dict[str, list[list[float]]] = {name: [] for name in makers}
    for number in range(options.runs + 1):
        outputs = []
        for name, make in makers.items():
            seconds, tokens = write(make, options.batch, options.length)
            outputs.append(tokens)
            if number:  # the first run of each warms up
                runs[name].append(seconds)
        assert np.array_equal(*outputs), "the cache changed what was written"
    steps = {name: [median(column) for column in zip(*seconds, strict=True)] for name, seconds in runs.items()}
    totals = {name: median(sum(run) for run in seconds) for name, seconds in runs.items()}
    print(f"batch {options.batch}, source {options.source}, {options.length} tokens, {options.threads} threads")
    print("step        " + "".join(f"{step:>9}" for step in SHOWN_STEPS if step <= options.length))
    for name, curve in steps.items():
        print(
            f"{name:<9} ms"
            + "".join(f"{1000 * curve[step - 1]:9.2f}" for step in SHOWN_STEPS if step <= options.length)
        )
    cached, uncached = totals["cached"], totals["uncached"]
    print(f"whole: cached {cached:.3f} s, uncached {uncached:.3f} s, ratio {uncached / cached:.1f}")


if __name__ == "__main__":
    main()
