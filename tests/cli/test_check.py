"""``pellucid check``: the contract on a trained model, as a table and as JSON, and what it says where it is broken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from pellucid.contract.results import CheckResult
from pellucid.contract.run import ITEMS, checks_of
from pellucid.model.cache import KVCache
from toys import Run


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.txt"
    path.write_text("ba da\n\nga ka la\nma\n ba da\n", encoding="utf-8")
    return path


def test_a_trained_model_keeps_the_contract(tiny_run: Path, few: Path, run: Run) -> None:
    result = run("check", tiny_run, "--input", few, "--json", "--threads", 1)
    facts = json.loads(result.out)
    assert [row for row in facts["results"] if row["holds"] is False] == []
    assert (result.status, facts["holds"], facts["sources"], facts["origin"]) == (0, True, 4, str(few))
    assert len(facts["results"]) == len(checks_of(ITEMS))
    assert {row["item"] for row in facts["results"]} == set(range(1, 13))
    assert [row["name"] for row in facts["results"] if row["holds"] is None] == ["a learned table ends in an error"]
    assert all(row["worst"] <= row["tolerance"] for row in facts["results"] if row["worst"] is not None)


def test_some_items_at_another_tolerance(tiny_run: Path, few: Path, run: Run) -> None:
    result = run("check", tiny_run, "--input", few, "--items", "9, 1", "--tolerance", 0.25, "--json", "--threads", 1)
    facts = json.loads(result.out)
    assert (result.status, facts["tolerance"]) == (0, 0.25)
    assert {row["item"] for row in facts["results"]} == {1, 9}
    compared = [row["tolerance"] for row in facts["results"] if row["worst"] is not None]
    assert 0.25 in compared


def forget(cache: KVCache, parents: torch.Tensor) -> None:
    cache.rows = parents.shape[0]
    for layer, pair in enumerate(cache._self):
        if pair is not None:
            cache._self[layer] = tuple(held[:1].expand(len(parents), -1, -1, -1).clone() for held in pair)


def test_what_breaks_it_is_exit_status_1_and_is_named(
    tiny_run: Path, few: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KVCache, "reorder", forget)
    result = run("check", tiny_run, "--input", few, "-n", 2, "--threads", 1)
    assert result.status == 1
    lines = result.out.splitlines()
    assert lines[0] == f"2 sources: {few}"
    assert lines[1].split() == ["item", "what", "worst", "allowed", "checked"]
    (row,) = [line for line in lines if line.startswith("2  ") and "cache" in line]
    assert "FAILS" in row and "1e-05" in row
    assert any(re.match(r"[2-6] .*: source \d, .* instead of ", line) for line in lines)
    assert "broken: 2" in lines[-1]


def quick(monkeypatch: pytest.MonkeyPatch, result: CheckResult) -> list[list[str]]:
    """Let the checks be one result; what they were handed comes out."""
    handed: list[list[str]] = []

    def check(_way: object, sources: list[str], *_: object) -> list[CheckResult]:
        handed.append(sources)
        return [result]

    monkeypatch.setattr("pellucid.contract.run.check", check)
    return handed


def test_sources_are_kept_ones_or_made_up(
    tiny_run: Path, toy_corpus: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = quick(monkeypatch, CheckResult(1, "x", True, "y", 0.0, 1e-5))
    assert run("check", tiny_run, "-n", 5).out.startswith("5 sources: kept in the run folder\n")
    assert run("check", tiny_run / "best", "-n", 5).out.startswith("5 sources: kept in the run folder\n")
    assert handed[0] == handed[1]
    assert set(handed[0]) <= set((toy_corpus / "dev.src").read_text().splitlines())
    alone = shutil.copytree(tiny_run / "best", tmp_path / "alone")
    assert run("check", alone, "-n", 6).out.startswith("6 sources: random words of the model's vocabulary\n")
    assert len(set(handed[2])) == 6 and all(text.strip() for text in handed[2])
    assert run("check", alone, "-i", "-", stdin=b"ba\nda\n").out.startswith("2 sources: standard input\n")


def test_near_ties_and_infinities_are_shown(tiny_run: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CheckResult(3, "x", False, "y", float("inf"), 1e-5, "because", ("source 1: gap 2e-06",))
    quick(monkeypatch, result)
    shown = run("check", tiny_run)
    assert shown.status == 1
    assert shown.out.splitlines()[-3:] == [
        "3 x: because",
        "3 x: near-tie, source 1: gap 2e-06",
        "0 of 1 hold; broken: 3",
    ]
    facts = json.loads(run("check", tiny_run, "--json").out)
    assert (facts["results"][0]["worst"], facts["holds"]) == ("inf", False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "missing.txt"], "missing.txt"),
        (["--input", "blank.txt"], "blank.txt: no text to check with"),
        (["--sentences", "1"], "sentences"),
        (["--items", "3,13"], "--items takes numbers from 1 to 12 with commas between, as 3,4,12, not '3,13'"),
        (["--items", "x"], "not 'x'"),
        (["--tolerance", "0"], "--tolerance (0.0) must be above 0 and below 1"),
        (["--beam-size", "0"], "beam_size"),
    ],
)
def test_bad_input_is_exit_status_2(tiny_run: Path, run: Run, workdir: Path, arguments: list[str], words: str) -> None:
    (workdir / "blank.txt").write_text("\n \n")
    result = run("check", tiny_run, *arguments)
    assert (result.status, result.out) == (2, "")
    assert words in result.err and len(result.err.splitlines()) == 1


def test_a_folder_that_is_no_model_is_exit_status_2(run: Run, tmp_path: Path) -> None:
    result = run("check", tmp_path)
    assert result.status == 2 and "not a model folder" in result.err
