"""Training on several corpora: begun, interrupted, gone on with, and used with a tag."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from pellucid.config import parse_config
from pellucid.data.prepare import prepare
from pellucid.data.tokenizer import load_rules, load_tokenizers
from pellucid.doctor.examination import quick_checks
from pellucid.errors import ConfigError, DataError, TokenizerError, TrainingError
from pellucid.experiment import train
from pellucid.loading import load
from pellucid.training.log import Silent
from runs import Ending, full_settings, traces
from toys import Run, toy_settings, write_toy_corpus


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories of toy text: ``upper`` writes capitals, ``back`` an X behind each, too."""
    folder = tmp_path_factory.mktemp("corpora")
    write_toy_corpus(folder / "upper", pairs=300)
    write_toy_corpus(folder / "back", pairs=60, seed=2)
    for name in ("train", "dev"):
        lines = (folder / "back" / f"{name}.src").read_text(encoding="utf-8").splitlines()
        turned = "".join(" ".join(f"{symbol}X" for symbol in line.upper().split()) + "\n" for line in lines)
        (folder / "back" / f"{name}.tgt").write_text(turned, encoding="utf-8")
    return folder


def _two(corpora: Path, settings: dict[str, Any], own_dev: bool = True, **data: Any) -> dict[str, Any]:
    settings["data"] = {"dir": str(corpora), "temperature": 5.0, "corpora": {}, **data}
    for name in ("upper", "back"):
        files: dict[str, Any] = {"source": f"{name}/train.src", "target": f"{name}/train.tgt", "tag": f"<{name}>"}
        if own_dev:
            files["dev"] = {"source": f"{name}/dev.src", "target": f"{name}/dev.tgt"}
        settings["data"]["corpora"][name] = files
    return settings


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    settings = _two(corpora, toy_settings(corpora, folder))
    settings["training"] |= {"max_updates": 150, "validate_every": 150, "metric": "loss"}
    train(parse_config(settings), Silent())
    return folder


def _style(text: str) -> str:
    """Which corpus all words of a text are like."""
    (found,) = {word.endswith("X") for word in text.split()}
    return "back" if found else "upper"


class Heard:
    """A reporter that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, task: str, done: int, total: int) -> None:
        """Nothing."""


# -- a run


def test_a_run_stopped_in_mid_epoch_goes_on_exactly(corpora: Path, tmp_path: Path) -> None:
    def settings(name: str) -> dict[str, Any]:
        found = _two(corpora, full_settings(corpora, tmp_path / name, max_updates=8))
        found["data"]["drop_final_punctuation"] = 0.5
        return found

    train(parse_config(settings("whole")), Silent())
    for update in (3, 5):
        train(parse_config(settings("stopped")), Ending(update, signal.SIGINT))
    progress = json.loads((tmp_path / "stopped" / "last" / "training.json").read_text())
    assert progress["update"] == 5 and progress["batch"] > 0
    assert train(parse_config(settings("stopped")), Silent()).finished
    assert traces(tmp_path / "stopped") == traces(tmp_path / "whole")


def test_what_a_run_says_and_writes_down(corpora: Path, tmp_path: Path) -> None:
    settings = _two(corpora, full_settings(corpora, tmp_path / "run", max_updates=4, metric="bleu"))
    heard = Heard()
    train(parse_config(settings), heard)
    table = next(number for number, line in enumerate(heard.lines) if line.startswith("corpus "))
    # 300^0.2 : 60^0.2 = 3.129 : 2.268
    assert re.split("  +", heard.lines[table + 1]) == ["upper", "300", "300", "58.0%", "209 (0.70 × kept)", "<upper>"]
    assert re.split("  +", heard.lines[table + 2]) == ["back", "60", "60", "42.0%", "151 (2.52 × kept)", "<back>"]
    assert "train/upper: 300 pairs read, 300 kept." in heard.lines
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [record for record in records if record["kind"] == "validation"]
    for metric in ("loss", "bleu", "chrf"):
        assert found[metric] == pytest.approx((found[f"{metric}/upper"] + found[f"{metric}/back"]) / 2)
    samples = next((tmp_path / "run" / "samples").iterdir()).read_text(encoding="utf-8")
    assert samples.count("corpus     upper\n") == samples.count("corpus     back\n") == 5


def test_a_named_corpus_decides(corpora: Path, tmp_path: Path) -> None:
    settings = _two(corpora, full_settings(corpora, tmp_path / "run", max_updates=4, metric_corpus="back"))
    progress = train(parse_config(settings), Silent())
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [record for record in records if record["kind"] == "validation"]
    assert progress.best == found["loss"] == found["loss/back"] != found["loss/upper"]


def test_another_weight_or_order_is_another_run(corpora: Path, tmp_path: Path) -> None:
    def settings(**data: Any) -> dict[str, Any]:
        return _two(corpora, full_settings(corpora, tmp_path / "run", max_updates=4), **data)

    train(parse_config(settings()), Ending(2, signal.SIGINT))
    heavier = settings()
    heavier["data"]["corpora"]["back"]["weight"] = 2.0
    with pytest.raises(ConfigError, match=r"data\.corpora\.back\.weight \(1\.0 → 2\.0\)"):
        train(parse_config(heavier), Silent())
    with pytest.raises(ConfigError, match=r"data\.temperature \(5\.0 → 2\.0\)"):
        train(parse_config(settings(temperature=2.0)), Silent())
    other = settings()
    other["data"]["corpora"]["back"]["tag"] = "<front>"
    with pytest.raises(
        ConfigError, match=r"data\.corpora\.back\.tag \(<back> → <front>\), data\.corpora\.back\.dev\.tag"
    ):
        train(parse_config(other), Silent())
    turned = settings()
    turned["data"]["corpora"] = dict(reversed(turned["data"]["corpora"].items()))
    with pytest.raises(TrainingError, match="the training text and the development text changed"):
        train(parse_config(turned), Silent())
    moved = settings()
    moved["data"]["corpora"]["back"]["source"] = str(corpora / "back" / "train.src")
    assert train(parse_config(moved), Silent()).finished


# -- tags in use


def test_a_tag_decides_what_is_written(taught: Path, run: Run) -> None:
    model = load(taught)
    assert model.rules.tags == ("<upper>", "<back>")
    assert model.decoding.tag == "<upper>"  # the larger corpus's
    assert _style(model.generate(["ba da ga"])[0].text) == "upper"
    assert _style(model.generate(["ba da ga"], tag="back")[0].text) == "back"
    assert _style(model.with_tag("<back>").generate(["ba da ga"])[0].text) == "back"
    assert model.source_tokenizer_alone is model.target_tokenizer
    for first in ("<upper>", "<back>"):
        with pytest.raises(ConfigError, match="which is forbidden"):
            model.generate(["ba"], prefix_tokens=[first])
    tagged = model.inspect("ba da")
    assert tagged.source_tokens[:2] == ["<upper>", "ba"] and len(tagged.source_tokens) == 4
    assert model.with_tag("").inspect("ba da").source_tokens[0] == "ba"
    assert _style("".join(model.stream("ba da ga", tag="back", beam_size=1))) == "back"
    right, wrong = (model.score(["ba da ga"], ["BAX DAX GAX"], tag=tag)[0].score for tag in ("back", "upper"))
    assert right > wrong + 1
    with pytest.raises(ConfigError, match=r"its tags are <upper>, <back>"):
        model.generate(["ba"], tag="front")

    said = run("translate", "-m", str(taught), "--tag", "back", "ba da ga")
    assert (said.status, _style(said.out)) == (0, "back")
    assert "--tag" not in said.err
    said = run("translate", "-m", str(taught), "ba da ga")
    assert _style(said.out) == "upper"
    assert "trained with tags (<upper>, <back>) and no --tag was given: <upper> is put in front" in said.err
    said = run("translate", "-m", str(taught), "--tag", "front", "ba")
    assert said.status == 2 and "its tags are <upper>, <back>" in said.err
    assert "tags <upper>, <back>" in run("info", str(taught)).out


def test_alignments_count_words_without_the_tag(taught: Path) -> None:
    from pellucid.alignment import align

    for tag in ("", "upper", "back"):
        (found,) = align(load(taught).with_tag(tag), ["ba da ga"], ["BAX DAX GAX"])
        assert list(found.source_units) == ["ba", "da", "ga"]
        assert all(source < 3 and target < 3 for source, target in found.links)


def test_tuning_a_tagged_model_on_one_of_its_tags(taught: Path, corpora: Path, tmp_path: Path) -> None:
    files = {"source": "back/train.src", "target": "back/train.tgt"}
    training = {"init_from": str(taught), "max_updates": 2, "metric": "loss", "precision": "float32", "threads": 1}
    settings: dict[str, Any] = {"output": str(tmp_path / "run"), "training": training}
    settings["data"] = {"dir": str(corpora), "train": {**files, "tag": "<back>"}, "holdout": 10}
    train(parse_config(settings), Silent())
    tuned = load(tmp_path / "run")
    assert (tuned.decoding.tag, tuned.rules.tags) == ("<back>", ("<upper>", "<back>"))
    assert _style(tuned.generate(["ba da ga"])[0].text) == "back"

    settings["data"]["train"] = {**files, "tag": "<forth>"}
    settings["output"] = str(tmp_path / "other")
    with pytest.raises(TokenizerError, match="no piece <forth> for the tag of that name; it has <upper> <back>: "):
        train(parse_config(settings), Silent())


# -- preparing and checking


def test_without_development_sets_each_corpus_gives_some(corpora: Path, tmp_path: Path) -> None:
    config = parse_config(_two(corpora, {"tokenizer": {"kind": "symbols"}}, own_dev=False, holdout=20))
    data = prepare(config, tmp_path / "run")
    assert list(data.dev_parts) == ["upper", "back"]
    for name, part in data.dev_parts.items():
        assert 1 <= len(part) <= 20 and part.tag == f"<{name}>"
        aside = {part.source_text(i) for i in range(len(part))}
        kept = data.train_parts[name]
        assert aside.isdisjoint(kept.source_text(i) for i in range(len(kept)))


def test_one_development_set_may_serve_all(corpora: Path, tmp_path: Path) -> None:
    dev = {"source": "back/dev.src", "target": "back/dev.tgt", "tag": "<back>"}
    config = parse_config(_two(corpora, {"tokenizer": {"kind": "symbols"}}, own_dev=False, dev=dev))
    data = prepare(config, tmp_path / "run")
    assert {name: part.tag for name, part in data.dev_parts.items()} == {"": "<back>"}
    names = [check.name for check in quick_checks(config, data)]
    assert {"train/back: sides aligned", "dev: sides aligned", "dev's source in train's script"} <= set(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "back/nothing.src"}, r"nothing\.src: .*\(of data\.corpora\.back\)"),
        ({"dev": {"source": "back/nothing.src", "target": "back/dev.tgt"}}, r"\(of data\.corpora\.back\.dev\)"),
        ({"source": "empty", "target": "empty"}, r"\(of data\.corpora\.back\)"),
        ({"source": "back/train.tgt", "target": "back/train.src", "tag": "<upper>", "dev": None}, "back are swapped"),
        ({"dev": {"source": "back/dev.tgt", "target": "back/dev.src"}}, "the two sides of dev/back are swapped"),
    ],
)
def test_an_error_names_the_corpus(changes: dict[str, Any], message: str, corpora: Path, tmp_path: Path) -> None:
    (corpora / "empty").write_text("\n\n", encoding="utf-8")
    settings = _two(corpora, {"tokenizer": {"kind": "symbols"}})
    settings["data"]["corpora"]["back"] |= changes
    with pytest.raises(DataError, match=message):
        prepare(parse_config(settings), tmp_path / "run")


def test_the_checks_name_the_corpus_and_look_for_leaks_across_all(corpora: Path, tmp_path: Path) -> None:
    settings = _two(corpora, {"tokenizer": {"kind": "symbols"}})
    settings["data"]["corpora"]["back"]["dev"] = {"source": "upper/train.src", "target": "upper/train.tgt"}
    config = parse_config(settings)
    checks = {check.name: check for check in quick_checks(config, prepare(config, tmp_path / "run"))}
    assert {"train/upper: pairs repeat", "train/back: pairs repeat", "dev/back: dropped, ratio"} <= checks.keys()
    found = checks["dev/back: in train, too"]
    assert found.verdict == "suspicious" and "of train/upper)" in found.sentence


def test_a_run_folder_knows_its_tags_when_it_goes_on(taught: Path) -> None:
    assert load_rules(taught / "tokenizer").tags == ("<upper>", "<back>")
    source, target = load_tokenizers(taught / "tokenizer")
    assert source is target and source.pieces([4, 5]) == ["<upper>", "<back>"]
