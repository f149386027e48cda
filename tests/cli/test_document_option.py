"""`translate --document`: paragraphs in, paragraphs out, by whatever way they come and whatever goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from echoes import Echo, install

from toys import Run

BASE = ("translate", "-m", "model", "--document")
TEXT = "  One. Two.\n\n\t\nDr. Smith came. Long. Four!\n"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    return install(monkeypatch)


def test_lines_keep_their_layout_and_sentences_fill_batches(echo: Echo, run: Run) -> None:
    result = run(*BASE, "--batch-size", 8, stdin=TEXT.replace("Long", "Three").encode())
    assert result.out == "  ONE. 0.0 TWO. 1.0\n\n\t\nDR. SMITH CAME. 2.0 THREE. 3.0 FOUR! 4.0\n"
    assert echo.calls[-1] == ["One.", "Two.", "Dr. Smith came.", "Three.", "Four!"]


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(("policy", "kept"), [("keep-source", "Long. "), ("blank", "")])
def test_only_the_sentence_that_fails_is_not_translated(policy: str, kept: str, run: Run) -> None:
    result = run(*BASE, "--on-error", policy, stdin=TEXT.encode())
    assert result.out.splitlines()[3] == f"DR. SMITH CAME. 2.0 {kept}FOUR! 4.0"
    assert result.err.splitlines()[1:] == ["  line 4: 5 is too long"]
    result = run(*BASE, "--on-error", policy, stdin=b"\xff. One.\nTwo.\n")
    assert result.out.splitlines()[1:] == ["TWO. 0.0"]


@pytest.mark.usefixtures("echo")
def test_json_has_the_sentences(run: Run) -> None:
    result = run(*BASE, "--json", "--n-best", 2, "--on-error", "blank", stdin=TEXT.encode())
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["source"] for row in rows] == TEXT.splitlines()
    assert [row["text"] for row in rows] == ["  ONE. 0.0 TWO. 1.0", "", "\t", "DR. SMITH CAME. 2.0 FOUR! 4.0"]
    assert [sentence["source"] for sentence in rows[3]["sentences"]] == ["Dr. Smith came.", "Long.", "Four!"]
    assert [len(sentence["hypotheses"]) for sentence in rows[3]["sentences"]] == [2, 0, 2]
    assert rows[3]["sentences"][1]["error"] == "5 is too long"


@pytest.mark.usefixtures("echo")
def test_samples_belong_to_the_sentence_also_behind_an_interruption(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text("One. Two. Three.\nctrl-c. Five.\n")
    base = (*BASE, "-i", "in", "-o", "out", "--batch-size", 1)
    assert run(*base).status == 130
    assert run(*base, "--resume").status == 0
    assert Path("out").read_text() == "ONE. 0.0 TWO. 1.0 THREE. 2.0\nCTRL-C. 3.0 FIVE. 4.0\n"


@pytest.mark.usefixtures("echo")
def test_the_language_is_used_and_contradictions_are_named(run: Run) -> None:
    text = "Das ist z.B. Unsinn. Gut."
    assert run(*BASE, "--language", "de", text).out == "DAS IST Z.B. UNSINN. 0.0 GUT. 1.0\n"
    assert "--document joins the best of each sentence: with --n-best" in run(*BASE, "--n-best", 2, text).err
    assert "--language is for --document to split by" in run("translate", "-m", "model", "--language", "de", text).err
    assert "language = 'German': expected a code such as de" in run(*BASE, "--language", "German", text).err
