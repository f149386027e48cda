"""``pellucid demo``: the data set, a short training, the report; and what a second run does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pellucid import demo
from pellucid.config import load_config
from pellucid.training.log import Silent

FAST = [
    "training.max_updates=4",
    "training.validate_every=2",
    "training.warmup_steps=1",
    "training.threads=1",
    "training.metric=loss",
    "model.hidden_size=16",
    "model.ff_size=16",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "decoding.max_length=8",
]


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    output = tmp_path_factory.mktemp("demo") / "run"
    report: list[str] = []
    assert demo.run(output, Silent(), report.append, FAST)
    return output, report


def test_it_shows_the_first_sentence_and_five_held_out_ones(shown: tuple[Path, list[str]]) -> None:
    output, report = shown
    heads = [line.removeprefix("── ") for line in report if line.startswith("── ")]
    held_out = [line.split("\t")[0] for line in (output / "data" / "test.tsv").read_text("utf-8").splitlines()]
    assert heads[:6] == ["我爱中国", *held_out[:5]]
    text = "\n".join(report)
    for word in (
        "greedy",
        "beam 5",
        "score",
        "tokens",
        "cross-attention",
        "KV cache",
        "BLEU",
        "nrefs:1|",
        "chrF",
        "next",
    ):
        assert word in text
    train = (output / "data" / "train.tsv").read_text("utf-8")
    assert not set(held_out) & {line.split("\t")[0] for line in train.splitlines()}


def test_a_second_run_says_that_the_first_has_finished(shown: tuple[Path, list[str]]) -> None:
    output, report = shown
    reporter, again = Lines(), list[str]()
    assert demo.run(output, reporter, again.append, FAST)
    assert any("has finished" in line for line in reporter.lines)
    end = report.index("── next")  # behind it, commands are written as they run from the current folder
    assert again[:end] == report[:end]


def test_its_settings_are_valid() -> None:
    config = load_config(Path(demo.__file__).parent / "demo.yaml")
    assert config.data.test is not None


def test_the_next_commands_can_be_run_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for script, shown in (
        (tmp_path / ".venv" / "bin" / "pellucid", ".venv/bin/pellucid"),
        (Path(".venv/bin/pellucid"), ".venv/bin/pellucid"),
        (Path("/else where/pellucid"), "'/else where/pellucid'"),
        (tmp_path / "pellucid" / "__main__.py", f"{sys.executable} -m pellucid"),
    ):
        monkeypatch.setattr(sys, "argv", [str(script), "demo"])
        assert demo._program() == shown
    (tmp_path / "pellucid").touch(mode=0o755)
    assert demo._program() == "pellucid"
