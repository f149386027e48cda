"""Rules for text from the corpus to the loaded model: what is done in training is done in every use."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

import pellucid
from pellucid.config import parse_config
from pellucid.data import chinese
from pellucid.data.text import TextRules, markers
from pellucid.errors import MissingExtraError
from pellucid.experiment import train
from pellucid.training.log import Silent
from pellucid.translator import Translator
from toys import Run, toy_settings

WORDS = {"ba": "BA", "da": "DA", "ga": "GA", "愛": "LOVE", "國": "LAND"}
NUMBERS = markers(["number"])


def _line(rng: random.Random) -> tuple[str, str]:
    words = rng.choices([*WORDS, "number"], [1] * len(WORDS) + [3], k=rng.randint(1, 4))
    words = [str(rng.randrange(100)) if word == "number" else word for word in words]
    return " ".join(words), " ".join(WORDS.get(word, word) for word in words)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned to copy numbers and to translate five words, two of them in traditional script."""
    folder = tmp_path_factory.mktemp("rules")
    rng = random.Random(1)
    for name, count in (("train", 400), ("dev", 20)):
        lines = [_line(rng) for _ in range(count)]
        for side, ending in enumerate(("src", "tgt")):
            text = "".join(line[side] + "\n" for line in lines)
            (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    settings = toy_settings(folder, folder / "run")
    settings["training"]["max_updates"] = 180
    settings["tokenizer"] = {"vocab_size": 400, "source_script": "simplified", "placeholders": ["number"]}
    train(parse_config(settings), Silent())
    return folder / "run"


@pytest.fixture(scope="module")
def translator(run_folder: Path) -> Translator:
    return pellucid.load(run_folder, device="cpu")


def test_the_rules_are_in_the_model_folder(translator: Translator, run_folder: Path) -> None:
    assert translator.rules == TextRules("simplified", "none", ("number",))
    assert pellucid.load(run_folder / "last").rules == translator.rules
    assert translator.rules == pellucid.load(shutil.copytree(run_folder / "best", "moved")).rules


def test_both_scripts_are_the_same_to_the_model(translator: Translator) -> None:
    for beam_size in (1, 2):
        (one,) = translator.generate(["ba 愛 國"], beam_size=beam_size)
        (other,) = translator.generate(["ba 爱 国"], beam_size=beam_size)
        assert one.hypotheses == other.hypotheses
        assert "LOVE" in one.text


def test_numbers_never_seen_survive(translator: Translator) -> None:
    (found,) = translator.generate(["ba 98765 愛 3.14"])
    assert [word for word in found.text.split() if word[0].isdigit()] == ["98765", "3.14"]
    # So small a model may write placeholders that the source does not have; they are left out of the text.
    assert [token for token in found.hypotheses[0].tokens if token in NUMBERS][:2] == NUMBERS[:2]
    assert "".join(translator.stream("ba 98765 愛 3.14")) == found.text


def test_a_generated_text_gets_the_score_it_was_generated_with(translator: Translator) -> None:
    source = "ba 98765 愛"
    (found,) = translator.generate([source])
    (score,) = translator.score([source], [found.text])
    assert score.tokens == found.hypotheses[0].tokens
    assert score.score == pytest.approx(found.hypotheses[0].score, rel=1e-5)
    seen = translator.inspect(source, found.text)
    assert seen.target_tokens == score.tokens
    assert NUMBERS[0] in seen.source_tokens


def test_what_happens_to_placeholders_is_counted(translator: Translator) -> None:
    before = translator.placeholder_faults.copy()
    translator.generate(["ba 98765"])
    assert translator.placeholder_faults == before
    # One token cannot hold both.
    translator.generate(["12345 98765"], beam_size=1, max_length=1)
    assert translator.placeholder_faults - before >= type(before)(missing=1)


def test_translate_reports_it_at_the_end(run_folder: Path, run: Run) -> None:
    result = run("translate", "--model", run_folder, "--beam-size", 1, "--max-length", 1, "12345 98765", "ba")
    assert (result.status, result.out.count("\n")) == (0, 2)
    assert "placeholders (tokenizer.placeholders): " in result.err and " left out" in result.err
    assert "placeholders" not in run("translate", "--model", run_folder, "ba").err


def test_info_shows_the_rules(run_folder: Path, tiny_run: Path, run: Run) -> None:
    assert "\ntext             source in simplified script; placeholders for number\n" in run("info", run_folder).out
    text = json.loads(run("info", run_folder, "--json").out)["text"]
    assert text == {"source_script": "simplified", "target_script": "none", "placeholders": ["number"]}
    assert "\ntext " not in run("info", tiny_run).out


def test_a_model_that_needs_opencc_says_so(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._opencc.cache_clear()
    assert pellucid.load(run_folder).generate(["愛"])[0].text == "LOVE"  # into simplified script it takes no OpenCC
    folder = Path(shutil.copytree(run_folder / "best", "other"))
    rules = folder / "tokenizer" / "tokenizer.json"
    rules.write_text(rules.read_text().replace('"source_script": "simplified"', '"source_script": "traditional"'))
    with pytest.raises(MissingExtraError, match=r"traditional script needs .*: pip install 'pellucid\[chinese\]'$"):
        pellucid.load(folder)
    chinese._opencc.cache_clear()
