"""How fast models are trained: pellucid beside loops over transformers and other toolkits, in one call.

    python benchmarks/train.py --data FOLDER [--environments FOLDER] [--only NAME ...] [--seconds S] [--repeats N]

FOLDER has train.en.gz, train.de.gz, val.en.gz and val.de.gz: Multi30k, as `pellucid data fetch multi30k` lays it down.
The peers get environments of their own, made in the folder of --environments where they are not there yet (1 to 2 GB
each), with the torch release that pellucid has here. An installation that would bring packages for CUDA is refused;
give pip a place with a CPU build of torch (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).

The model of all: 3 + 3 layers, 256 wide, feed-forward 1,024, 4 heads, a joint vocabulary of 8,000, one matrix for
source, target and output (about 7.6 M parameters), dropout 0.1, label smoothing 0.1, Adam, gradients clipped to 1. Eole
is pre-norm, the others post-norm. Updates have about 4,096 target tokens. pellucid and the loops over transformers'
Marian get the very same batches; Seq2SeqTrainer, Eole and JoeyNMT make batches of the same pairs themselves, of the
same size as near as they can. Tokens, too, are the same for all. Real target tokens are counted, with </s>, without
padding.

Every run is a process of its own: it starts, trains for the warm-up (not counted, nor is anything before the end of the
first update), is measured for some seconds, and ends; the systems take turns, so that what else the machine does falls
on all alike. The median of the repeats counts. Nobody validates or saves meanwhile. Where a system has settings that
may be its best, each is tried first, in a run half as long. All peers but `marian-plain` get the memory settings of
glibc that are known to be good for them, by environment variables; pellucid sets what it needs itself.

Utilisation is FLOPs that the model needs for the real tokens (about 45 million a target token, with its source), over
what 1024³ matrix products reach in the same call at the same precision (the median). Memory is the largest resident
set of the process, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PRECISIONS = ("float32", "bfloat16")
EPOCHS = 20  # of batches written down, more than any run here sees
LIMIT = 1800  # seconds after which a run that does not end is killed
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
RUNNERS = Path(__file__).with_name("train_runners.py")


@dataclass(frozen=True)
class System:
    """What is compared."""

    packages: tuple[str, ...] = ()
    """Of its environment, beside torch; none: this Python."""
    environment: str = ""
    malloc: bool = True
    precisions: tuple[str, ...] = PRECISIONS
    choices: tuple[dict[str, Any], ...] = ({},)
    """Settings of which each is tried."""
    variables: dict[str, str] = field(default_factory=dict)


TRANSFORMERS = ("transformers==5.23.0", "accelerate")
SYSTEMS = {
    "pellucid": System(malloc=False),
    "marian-plain": System(TRANSFORMERS, "transformers", malloc=False),
    "marian-tuned": System(
        TRANSFORMERS,
        "transformers",
        choices=tuple(
            {"attention": attention, "multiple": multiple} for attention in ("eager", "sdpa") for multiple in (1, 4)
        ),
    ),
    "seq2seq": System(TRANSFORMERS, "transformers", choices=({"attention": "eager"}, {"attention": "sdpa"})),
    # aiohttp and importlib_metadata: imported by these releases, and not among what they say they need.
    "eole": System(("eole==0.6.4", "aiohttp"), "eole", choices=({"workers": 0}, {"workers": 2})),
    "joeynmt": System(("joeynmt==2.3.0", "importlib_metadata"), "joeynmt", precisions=("float32",)),
}
TOOLKITS = ("seq2seq", "eole", "joeynmt")


class RunError(Exception):
    """A system cannot be installed, or does not run; the last line of what it said."""


def last_line(text: str) -> str:
    """The last that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def say(text: str) -> None:
    """How far it is, beside the table."""
    print(text, file=sys.stderr, flush=True)


# ---- environments


def environment(system: System, folder: Path) -> Path:
    """The Python of a system's environment; it is made first where it is not there.

    Raises:
        RunError: pip fails, or would install packages for CUDA.
    """
    if not system.environment:
        return Path(sys.executable)
    place = folder / system.environment
    python = place / "bin" / "python"
    if (place / "complete").exists():
        return python
    say(f"{place}: installing {', '.join(system.packages)}")
    folder.mkdir(parents=True, exist_ok=True)
    pip_run([sys.executable, "-m", "venv", "--clear", str(place)])
    constraints = place / "constraints.txt"
    constraints.write_text(f"torch=={version('torch').partition('+')[0]}\n", encoding="utf-8")
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    report = place / "report.json"
    pip_run([*install, "--dry-run", "--report", str(report), "torch", *system.packages])
    planned = [entry["metadata"]["name"].lower() for entry in json.loads(report.read_text())["install"]]
    unwanted = [name for name in planned if name.startswith(("nvidia", "cuda", "triton"))]
    if unwanted:
        raise RunError(f"pip would install {unwanted[0]}: give it a place with a CPU build of torch (PIP_FIND_LINKS)")
    pip_run([*install, "torch", *system.packages])
    (place / "complete").touch()
    return python


def pip_run(command: list[str]) -> None:
    """Run it; what it says matters only where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(last_line(done.stderr))


# ---- runs


@dataclass
class Bench:
    """What all runs share.

    Attributes:
        work: a folder for everything that is written.
        pythons: of the systems, by name.
        task: what every run is told.
    """

    work: Path
    pythons: dict[str, Path]
    task: dict[str, Any]

    def run(self, name: str, precision: str = "float32", **more: Any) -> dict[str, Any]:
        """One process; its answer, and ``memory`` in MiB.

        Raises:
            RunError: it has failed.
        """
        system = SYSTEMS.get(name, System(malloc=False))
        asked, answer, log = (self.work / file for file in ("task.json", "result.json", f"{name}.log"))
        asked.write_text(json.dumps({**self.task, "precision": precision, **more}), encoding="utf-8")
        answer.unlink(missing_ok=True)
        variables = {**os.environ, "OMP_NUM_THREADS": str(self.task["threads"]), "HF_HUB_OFFLINE": "1"}
        variables |= MALLOC if system.malloc else {}
        path = variables.pop("PYTHONPATH", "")  # where pellucid may be; of no use to the peers
        if path and not system.environment:
            variables["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        python = self.pythons.get(name, Path(sys.executable))
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [str(python), str(RUNNERS), name, str(asked), str(answer)],
                stdout=output,
                stderr=output,
                env=variables,
                cwd=self.work,
            )
            timer = threading.Timer(LIMIT, process.kill)
            timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
        if not answer.exists():
            said = last_line(log.read_text(encoding="utf-8", errors="replace"))
            raise RunError(said if process.returncode >= 0 else f"killed by signal {-process.returncode}; {said}")
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return {**result, "memory": usage.ru_maxrss / 1024}


@dataclass
class Row:
    """A line of the table."""

    name: str
    precision: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    choice: dict[str, Any] = field(default_factory=dict)
    tried: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    error: str = ""

    def middle(self, value: str) -> float:
        """The median of the runs."""
        return median([run[value] for run in self.runs])


def median(values: list[float]) -> float:
    """The middle one, or the mean of the two."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def choose(bench: Bench, row: Row) -> None:
    """Try a system's settings, and keep the fastest."""
    choices = SYSTEMS[row.name].choices
    row.choice = choices[0]
    if len(choices) == 1:
        return
    failure = RunError("no setting works")
    for choice in choices:
        try:
            run = bench.run(row.name, row.precision, **choice, seconds=bench.task["seconds"] / 2)
        except RunError as error:
            failure = error
            say(f"{row.name}, {row.precision}, {choice}: {error}")
            continue
        row.tried.append((run["tokens_per_second"], choice))
        say(f"{row.name}, {row.precision}, {choice}: {run['tokens_per_second']:,.0f}")
    if not row.tried:
        raise failure
    row.choice = max(row.tried, key=lambda pair: pair[0])[1]


def measure(bench: Bench, rows: list[Row], repeats: int) -> dict[str, list[float]]:
    """Fill the rows, in turns; the rates of the matrix products beside them, by precision."""
    rates: dict[str, list[float]] = {row.precision: [] for row in rows}
    for repeat in range(repeats):
        for precision in rates:
            rates[precision].append(bench.run("matmul", precision)["flops_per_second"])
            for row in rows:
                if row.precision != precision or row.error:
                    continue
                try:
                    if not repeat:
                        choose(bench, row)
                    row.runs.append(bench.run(row.name, precision, **row.choice))
                except RunError as error:
                    row.error = str(error)
                    say(f"{row.name}, {precision}: {error}")
                    continue
                say(f"{row.name}, {precision}: {row.runs[-1]['tokens_per_second']:,.0f} target tokens/s")
    return rates


def table(rows: list[Row], rates: dict[str, list[float]]) -> list[str]:
    """Markdown."""
    lines = [
        "| system | precision | target tokens/s (each run) | utilisation | peak MiB | tokens an update | "
        "updates, warm-up | setting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row.name} | {row.precision} |"
        if row.error:
            lines.append(f"{start} – {row.error} | | | | | |")
            continue
        each = ", ".join(f"{run['tokens_per_second']:,.0f}" for run in row.runs)
        share = row.middle("flops_per_second") / median(rates[row.precision])
        setting = ", ".join(f"{name} {value}" for name, value in row.choice.items())
        memory = max(run["memory"] for run in row.runs)
        lines.append(
            f"{start} {row.middle('tokens_per_second'):,.0f} ({each}) | {share:.0%} | {memory:,.0f} | "
            f"{row.middle('tokens_per_update'):,.0f} | {row.middle('updates'):.0f}, "
            f"{row.middle('warm_up_updates'):.0f} | {setting} |"
        )
    return lines


def ratios(rows: list[Row]) -> list[str]:
    """Ours, at its best precision, over the best of the others at theirs."""

    def best(*names: str) -> tuple[float, Row] | None:
        found = [(row.middle("tokens_per_second"), row) for row in rows if row.name in names and row.runs]
        return max(found, key=lambda pair: pair[0], default=None)

    ours, lines = best("pellucid"), []
    for title, names in (("the best toolkit", TOOLKITS), ("the tuned loop", ("marian-tuned",))):
        other = best(*names)
        if ours and other:
            row = other[1]
            lines.append(f"pellucid over {title} ({row.name}, {row.precision}): {ours[0] / other[0]:.2f}")
    return lines


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--environments", type=Path, default=Path("environments"), help="where peers are installed")
    parser.add_argument("--only", nargs="+", choices=[*SYSTEMS], default=[*SYSTEMS], help="these systems")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--seconds", type=float, default=30.0, help="that a run is measured for")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds of training before that")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--threads", type=int, default=2, help="of every system")
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens an update, about")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of pellucid's")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    return parser


def main() -> None:
    """Measure, and print a table."""
    arguments = build_parser().parse_args()
    rows = [
        Row(name, precision)
        for precision in arguments.precisions
        for name in arguments.only
        if precision in SYSTEMS[name].precisions
    ]
    pythons: dict[str, Path] = {}
    for name in arguments.only:
        try:
            pythons[name] = environment(SYSTEMS[name], arguments.environments.resolve())
        except RunError as error:
            say(f"{name}: {error}")
            for row in rows:
                row.error = str(error) if row.name == name else row.error
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "work": folder,
            "data": str(arguments.data.resolve()),
            "tokens": arguments.tokens,
            "epochs": EPOCHS,
            "threads": arguments.threads,
            "warm_up": arguments.warm_up,
            "seconds": arguments.seconds,
            "settings": arguments.set,
        }
        bench = Bench(Path(folder), pythons, task)
        try:
            prepared = bench.run("prepare")
        except RunError as error:
            raise SystemExit(f"preparing the data: {error}") from None
        task["budget"] = prepared["budget"]
        say(f"{prepared['batches']} batches, {prepared['budget']} cells each; vocabulary {prepared['vocabulary']}")
        rates = measure(bench, rows, arguments.repeats)
    print("\n".join(table(rows, rates)))
    for precision, values in rates.items():
        print(f"1024³ products, {precision}: {median(values) / 1e9:.0f} GFLOP/s (each turn: ", end="")
        print(", ".join(f"{value / 1e9:.0f}" for value in values) + ")")
    for line in ratios(rows):
        print(line)
    if arguments.json:
        document = {"rates": rates, "rows": [vars(row) for row in rows], "data": prepared}
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
