"""The model that nobody has to name: what each command does without --model, and without a bundled model.

A toy model stands in its place here; the bundled model itself is looked at in test_bundled_model.py.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

import pellucid
from pellucid import bundled
from pellucid.commands.explore import _open_bundled
from pellucid.errors import ModelFolderError
from pellucid.explorer.api import ApiError
from toys import Run

NOTE = "no model was named: this is zh-en, Chinese to English, which comes with pellucid\n"


@pytest.fixture
def models(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose bundled model is the toy model, and which has no recorded trace."""
    place = tmp_path_factory.mktemp("installed")
    shutil.copytree(tiny_run / "best", place / "models" / bundled.BUNDLED)
    monkeypatch.setattr(bundled, "MODELS", place / "models")
    monkeypatch.setattr(bundled, "RECORDED", place / "recorded")
    return place / "models"


@pytest.fixture
def nothing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation without a bundled model."""
    place = tmp_path_factory.mktemp("bare")
    monkeypatch.setattr(bundled, "MODELS", place / "models")
    monkeypatch.setattr(bundled, "RECORDED", place / "recorded")
    return place


COMMANDS = (
    ["translate", "ba da"],
    ["generate", "--beam-size", "1", "ba da"],
    ["translate", "--stream", "ba da"],
    ["score", "a.src", "a.tgt"],
    ["align", "a.src", "a.tgt"],
    ["evaluate", "--json", "--metric", "bleu", "a.src", "a.tgt"],
    ["info"],
    ["check", "--sentences", "2", "--items", "9"],
    ["trace", "ba"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_without_a_model_it_is_the_bundled_one_and_stderr_says_so(command: list[str], models: Path, run: Run) -> None:
    Path("a.src").write_text("ba da\nga\n")
    Path("a.tgt").write_text("BA DA\nGA\n")
    bare = run(*command)
    assert (bare.status, bare.err.count(NOTE)) == (0, 1), bare.err
    folder = models / bundled.BUNDLED
    named = run(*command, *([folder] if command[0] in ("info", "check") else ["--model", folder]))
    assert (named.status, NOTE in named.err) == (0, False)
    if command[0] not in ("trace", "evaluate"):  # these tell the time, too
        assert bare.out == named.out
    assert bare.out.strip()


def test_in_python_no_name_and_its_name_are_the_bundled_model(models: Path, tiny_run: Path) -> None:
    for model in (pellucid.load(), pellucid.load("zh-en"), pellucid.load(device="cpu")):
        assert model.folder == models / "zh-en"
    # What is here comes first, as for every other name.
    shutil.copytree(tiny_run / "best", "zh-en")
    assert pellucid.load("zh-en").folder == Path("zh-en")
    assert pellucid.load().folder == models / "zh-en"


@pytest.mark.parametrize("command", [["translate", "ba"], ["info"], ["trace", "ba"], ["explore", "--no-open"]])
def test_without_a_bundled_model_one_sentence_says_what_to_do(command: list[str], nothing: Path, run: Run) -> None:
    result = run(*command)
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        f"pellucid: error: the bundled model zh-en is missing from this installation of pellucid "
        f"({nothing / 'models' / 'zh-en'}): install pellucid again, or name a model folder of your own "
        "(pellucid demo trains one in some minutes)\n"
    )
    with pytest.raises(ModelFolderError, match="is missing from this installation"):
        pellucid.load("zh-en")


def test_what_writes_or_needs_a_run_asks_for_a_model(models: Path, run: Run) -> None:
    Path("a.src").write_text("ba\n")
    choose = run("align", "a.src", "a.src", "--choose-heads")
    assert (choose.status, "name a model of your own with --model" in choose.err) == (2, True)
    assert not (models / "zh-en" / "alignment.json").exists()
    corpus = run("evaluate")
    assert corpus.status == 2
    assert "the bundled model has no corpus: name a file with sources and one with references" in corpus.err


def test_the_explorer_falls_back_to_what_was_recorded(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nothing / "recorded").mkdir()
    (nothing / "recorded" / "zh-en.json.gz").write_bytes(gzip.compress(b'{"format": "pellucid-trace"}'))
    api, name = _open_bundled(None, 1, {}, {})
    assert name == "a recorded trace"
    assert "what is shown was recorded earlier" in capsys.readouterr().err
    answer = api.model()
    assert answer["model"] is None and "is missing from this installation" in answer["error"]["message"]
    assert answer["recorded"] == [{"name": "zh-en", "url": "/recorded/zh-en.json"}]
    assert json.loads(api.recorded("zh-en.json")) == {"format": "pellucid-trace"}
    with pytest.raises(ApiError, match="is missing from this installation"):
        api.start(b'{"text": "ba"}')


def test_the_explorer_shows_what_was_recorded_of_the_bundled_model_with_that_model_only(
    models: Path, tiny_run: Path
) -> None:
    from pellucid.commands.explore import _open

    (models.parent / "recorded").mkdir()
    (models.parent / "recorded" / "zh-en.json.gz").write_bytes(gzip.compress(b"{}"))
    own, name = _open_bundled("cpu", 1, {}, {})
    assert (name, len(own.model()["recorded"])) == ("zh-en", 1)
    other, name = _open(str(tiny_run), "cpu", 1, {}, {})
    assert (name, other.model()["recorded"]) == ("tiny", [])


def test_examples_come_with_the_beam_that_they_are_about(models: Path) -> None:
    output = {"beam": 10, "text": "DA", "score": -0.5, "chrf": 31}
    entries = [
        {"text": "ba", "kind": "plain", "outputs": [{"beam": 10, "text": "DA"}]},
        {"text": "da", "kind": "wide_worse", "beam_size": 10, "outputs": [output], "reference": "r", "credit": "c"},
        {},
    ]
    entries.append({"text": "ga", "kind": "plain", "beam_size": 1000})
    (models / "zh-en" / "examples.json").write_text(json.dumps(entries))
    api, _ = _open_bundled("cpu", 1, {}, {})
    assert [(one["text"], one["beam_size"]) for one in api.model()["examples"]] == [
        ("ba", None),
        ("da", 10),
        ("ga", None),
    ]
    ba, da, _ = api.model()["examples"]
    assert ba["outputs"] == []
    assert da == {**entries[1], "outputs": [output]}
