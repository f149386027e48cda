"""Target tokens a second of one process with one thread against several with one each, on the same batches.

    python benchmarks/parallel.py SOURCES TARGETS [--processes 2] [--updates 24] [--runs 3] [--precision float32]

SOURCES and TARGETS are aligned text files (.gz too), such as Multi30k's train.de.gz and train.en.gz. The real command
trains the preset ``small`` (3+3 layers, 256 wide, 8,000 joint subwords, batches of 4,096 tokens, dropout on), alone and
under torchrun, in turns; each run logs six windows of updates, of which the first is not counted. Medians over windows
and runs are quoted, and the ratio of each pair of runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

WINDOWS = 6


def train(folder: Path, processes: int, settings: list[str]) -> list[float]:
    """Tokens a second of each window of a run, without the first."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "pellucid", "train", f"output={folder}", *settings]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    records = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record["tokens_per_second"] for record in records if record["kind"] == "train"][1:]


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("targets", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    common = [
        *(f"data.train.source={options.sources.resolve()}", f"data.train.target={options.targets.resolve()}"),
        *("data.holdout=64", "model.preset=small", "tokenizer.vocab_size=8000"),
        *("training.metric=loss", "training.checks=skip", "training.device=cpu", "training.threads=1"),
        f"training.precision={options.precision}",
    ]
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "first"  # learns the vocabulary and tokenises, once for all
        train(first, 1, [*common, "training.max_updates=1"])
        common += [f"training.init_from={first / 'last'}", f"training.max_updates={options.updates}"]
        common += [f"training.log_every={max(1, options.updates // WINDOWS)}"]
        found: dict[int, list[list[float]]] = {1: [], options.processes: []}
        for run in range(options.runs):
            for processes, speeds in found.items():
                folder = Path(place) / f"{run}-{processes}"
                shutil.copytree(first / "cache", folder / "cache")
                speeds.append(train(folder, processes, common))
                shutil.rmtree(folder)
    ratios = [median(many) / median(one) for one, many in zip(found[1], found[options.processes], strict=True)]
    print(f"| {options.precision} | target tokens/s |\n|---|---|")
    for processes, speeds in found.items():
        print(f"| {processes} x 1 thread | {median(speed for run in speeds for speed in run):,.0f} |")
    print(f"ratio: {median(ratios):.2f} (of each pair of runs: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
