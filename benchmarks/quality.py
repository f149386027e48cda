"""How long a recipe takes until its translations are good: greedy BLEU on the development set, by the clock.

    python benchmarks/quality.py --data FOLDER [--threshold 36.3] [--recipe FILE] [KEY=VALUE ...]

Runs `pellucid train RECIPE data.dir=FOLDER KEY=VALUE ...` in a temporary folder, follows its metrics.jsonl, stops it
(SIGINT, as Ctrl-C) once a validation reaches the threshold, and prints the course. A threshold that is never reached
lets the run go to its end.

Three clocks: "all" begins with the command (reading text, learning the vocabulary, the checks, everything), "training"
with the end of the first update, and "updates" is training without validations; what is saved is in all three. Every
update is logged, so that the time at which a validation began is known, to about a fifth of a second.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "multi30k-en-de.yaml"
POLL_SECONDS = 0.2


@dataclass
class Point:
    """A validation: its update, BLEU, seconds since the command began and since the first update, and tokens so far."""

    update: int
    bleu: float
    began: float
    ended: float
    tokens: int | None = None


@dataclass
class Course:
    """What is known of a run, from the lines of metrics.jsonl and when they came.

    Attributes:
        folder: the run folder.
        start: when the command began.
    """

    folder: Path
    start: float
    first_update: float | None = None
    last_update: float = 0.0
    update: int = 0
    points: list[Point] = field(default_factory=list)
    read: int = 0

    def look(self) -> None:
        """Take in the lines that are new."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes()[self.read :]
        whole = lines[: lines.rfind(b"\n") + 1]  # the last line may be half written
        self.read += len(whole)
        now = time.monotonic() - self.start
        for line in whole.decode("utf-8").splitlines():
            self._take(json.loads(line), now)

    def _take(self, record: dict[str, Any], now: float) -> None:
        if record["kind"] == "train":
            self.first_update = now if self.first_update is None else self.first_update
            self.last_update, self.update = now, record["update"]
            self.note_tokens()  # it has saved by now
        elif "bleu" in record:
            self.points.append(Point(record["update"], record["bleu"], self.last_update, now))

    def note_tokens(self) -> None:
        """Real target tokens up to the last validation, of the checkpoint that was written behind it."""
        if not self.points or self.points[-1].tokens is not None:
            return
        try:
            state = json.loads((self.folder / "last" / "training.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if state["update"] == self.points[-1].update:
            self.points[-1].tokens = state["target_tokens"]

    def validated(self, point: Point | None = None) -> float:
        """Seconds that validations took, up to and with ``point``."""
        last = len(self.points) if point is None else self.points.index(point) + 1
        return sum(point.ended - point.began for point in self.points[:last])

    def row(self, point: Point) -> str:
        """For the table."""
        training = point.ended - (self.first_update or 0.0)
        minutes = (point.ended, training, training - self.validated(point), point.ended - point.began)
        tokens = "" if point.tokens is None else f"{point.tokens:,}"
        cells = " | ".join(f"{seconds / 60:.2f}" for seconds in minutes)
        return f"| {point.update:,} | {tokens} | {point.bleu:.2f} | {cells} |"


def follow(process: subprocess.Popen[bytes], course: Course, threshold: float) -> Point | None:
    """Until the run ends or a validation reaches the threshold; that validation."""
    shown = 0
    while True:
        running = process.poll() is None
        course.look()
        for point in course.points[shown:]:
            shown += 1
            print(f"update {point.update:,}: BLEU {point.bleu:.2f}, {point.ended / 60:.2f} min", file=sys.stderr)
            if point.bleu >= threshold:
                return point
        if not running:
            return None
        time.sleep(POLL_SECONDS)


def await_tokens(process: subprocess.Popen[bytes], course: Course) -> None:
    """Let the run write the checkpoint that stands behind the last validation: it knows the tokens."""
    patience = time.monotonic() + 10.0
    course.note_tokens()
    while course.points and course.points[-1].tokens is None and time.monotonic() < patience:
        if process.poll() is not None:
            break
        time.sleep(POLL_SECONDS)
        course.note_tokens()


def stop(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; it saves and ends."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def report(course: Course, reached: Point | None, threshold: float) -> list[str]:
    """The table, and the answer."""
    lines = [
        "| update | target tokens | BLEU | all, min | training, min | updates, min | this validation, min |",
        "|---|---|---|---|---|---|---|",
        *map(course.row, course.points),
    ]
    if not course.points:
        return ["no validation"]
    last = course.points[-1] if reached is None else reached
    training = last.ended - (course.first_update or 0.0)
    validations = course.validated(last)
    if reached is None:
        best = max(point.bleu for point in course.points)
        lines.append(f"BLEU {threshold:g} was not reached in {last.ended / 60:.2f} min; the best was {best:.2f}")
    else:
        lines.append(
            f"BLEU {threshold:g} first reached at update {last.update:,}: {last.ended / 60:.2f} min in all, "
            f"{training / 60:.2f} min of training, {(training - validations) / 60:.2f} min of updates"
        )
    share = validations / max(training, 1e-9)
    lines.append(f"validations took {validations / 60:.2f} min, {share:.1%} of the training")
    return lines


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as `pellucid train` takes them")
    parser.add_argument("--data", type=Path, required=True, help="data.dir of the recipe")
    parser.add_argument("--threshold", type=float, default=36.3, help="BLEU to reach (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="(default: recipes/multi30k-en-de.yaml)")
    return parser


def main() -> int:
    """Run, and print the course; 1 where the threshold was not reached, 2 where the run failed."""
    options = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder, log = Path(work) / "run", Path(work) / "log.txt"
        fixed = [f"data.dir={options.data.resolve()}", "training.log_every=1", "training.validation_beam_size=1"]
        command = [sys.executable, "-m", "pellucid", "train", str(options.recipe), *fixed, *options.overrides]
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen([*command, "--output", str(folder)], stdout=output, stderr=output)
        course = Course(folder, start)
        try:
            reached = follow(process, course, options.threshold)
            await_tokens(process, course)
        finally:
            stop(process)
        if process.returncode not in (0, 130):
            print(log.read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
            return 2
    print("\n".join(report(course, reached, options.threshold)))
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
