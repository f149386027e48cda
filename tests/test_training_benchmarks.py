"""benchmarks/train.py and benchmarks/quality.py: that they start, and that what they count and print is right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of benchmarks/, imported."""
    spec = importlib.util.spec_from_file_location(request.param, FOLDER / f"{request.param}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, request.param, loaded)  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("name", ["train", "quality"])
def test_help(name: str) -> None:
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--data" in done.stdout


@pytest.mark.parametrize("module", ["train_runners"], indirect=True)
def test_flops_are_those_of_the_matrices(module: ModuleType) -> None:
    # No attention between positions to speak of: one token on either side, all else by hand.
    encoder = 4 * 256**2 + 2 * 256 * 1024 + 2 * 256
    decoder = 8 * 256**2 + 2 * 256 * 1024 + 4 * 256
    assert module.flops(1, 1, 8000) == 6 * (3 * (encoder + decoder) + 256 * 8000)
    # The decoder's positions attend to 1, 2, 3 of their own and to all of the source.
    assert module.flops(0, 3, 0) - 3 * module.flops(0, 1, 0) == 6 * 3 * 2 * 256 * (1 + 2 + 3 - 3)


@pytest.mark.parametrize("module", ["train_runners"], indirect=True)
def test_warm_up_is_not_counted(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 110.0, 112.0, 120.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    marks = module.Marks({"warm_up": 10, "seconds": 10}, 8000)
    tokens = [999, 999, 999, 10, 30]  # the third update is the one at whose end the warm-up is over
    assert [marks.add([(5, count)]) for count in tokens] == [False, False, False, False, True]
    result = marks.result()
    assert (result["tokens_per_second"], result["updates"], result["warm_up_updates"]) == (4.0, 2, 3)


@pytest.mark.parametrize("module", ["train"], indirect=True)
def test_table_and_ratios(module: ModuleType) -> None:
    def row(name: str, precision: str, *rates: float) -> Any:
        rest = dict(tokens_per_update=4096, updates=5, warm_up_updates=2, memory=1000)
        runs = [{"tokens_per_second": rate, "flops_per_second": 45e6 * rate, **rest} for rate in rates]
        return module.Row(name, precision, runs)

    rows = [
        row("pellucid", "float32", 3000),
        row("pellucid", "bfloat16", 6000, 9000, 6500),
        row("eole", "float32", 1300),
    ]
    rows += [row("seq2seq", "bfloat16", 2000), row("marian-tuned", "bfloat16", 4000)]
    rows.append(module.Row("joeynmt", "float32", error="it does not install"))
    lines = module.table(rows, {"float32": [1e12], "bfloat16": [1e12, 9e12, 1e12]})
    assert "| pellucid | bfloat16 | 6,500 (6,000, 9,000, 6,500) | 29% | 1,000 |" in lines[3]
    assert "it does not install" in lines[-1]
    assert module.ratios(rows) == [
        "pellucid over the best toolkit (seq2seq, bfloat16): 3.25",
        "pellucid over the tuned loop (marian-tuned, bfloat16): 1.62",
    ]


@pytest.mark.parametrize("module", ["quality"], indirect=True)
def test_course_of_a_run(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    course = module.Course(tmp_path, 0.0)
    course.look()  # nothing there yet
    metrics = tmp_path / "metrics.jsonl"
    records = [("train", 1, {}), ("train", 2, {}), ("validation", 2, {"bleu": 20.0})]
    records += [("train", 3, {}), ("train", 4, {}), ("validation", 4, {"bleu": 36.5})]
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "training.json").write_text(json.dumps({"update": 4, "target_tokens": 1234}))
    times = [60.0, 120.0, 150.0, 180.0, 240.0, 270.0]
    for clock[0], (kind, update, values) in zip(times, records, strict=True):
        text = json.dumps({"kind": kind, "update": update, **values}) + "\n"
        with metrics.open("a") as file:
            file.write(text[:9])
        course.look()  # half a line is left for later
        with metrics.open("a") as file:
            file.write(text[9:])
        course.look()
    course.note_tokens()
    assert course.row(course.points[1]) == "| 4 | 1,234 | 36.50 | 4.50 | 3.50 | 2.50 | 0.50 |"
    lines = module.report(course, course.points[1], 36.3)
    assert lines[-2].endswith("at update 4: 4.50 min in all, 3.50 min of training, 2.50 min of updates")
    assert lines[-1] == "validations took 1.00 min, 28.6% of the training"


@pytest.mark.parametrize("module", ["train"], indirect=True)
def test_each_setting_is_tried_and_the_fastest_counts(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = ({"workers": 0}, {"workers": 2}, {"workers": 9})
    monkeypatch.setitem(module.SYSTEMS, "eole", module.System(choices=choices))
    asked: list[dict[str, Any]] = []

    def run(self: Any, name: str, precision: str = "float32", **more: Any) -> dict[str, Any]:
        asked.append({"name": name, **more})
        if name == "joeynmt" or more.get("workers") == 9:
            raise module.RunError("it is broken")
        return {"tokens_per_second": 100 + more.get("workers", 0), "flops_per_second": 1e12}

    monkeypatch.setattr(module.Bench, "run", run)
    rows = [module.Row("eole", "float32"), module.Row("joeynmt", "float32")]
    rates = module.measure(module.Bench(Path(), {}, {"seconds": 30.0}), rows, 2)
    assert rates == {"float32": [1e12, 1e12]}
    assert (rows[0].choice, len(rows[0].runs), rows[0].error) == ({"workers": 2}, 2, "")
    assert (rows[1].runs, rows[1].error) == ([], "it is broken")
    assert [more.get("seconds") for more in asked if more["name"] == "eole"] == [15.0, 15.0, 15.0, None, None]
    assert [more["name"] for more in asked].count("joeynmt") == 1
