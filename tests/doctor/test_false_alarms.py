"""What looks like a mistake and is none: nothing is refused, and where possible nothing is said."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_cases import Pairs, World, dialogue, lines, look, sentences

from pellucid.config import parse_config
from pellucid.data.byte_tokenizer import ByteTokenizer
from pellucid.data.dataset import TextStore
from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.overlap import find_overlap
from pellucid.data.prepare import PreparedData, prepare
from pellucid.data.report import CorpusReport
from pellucid.doctor.examination import quick_checks
from pellucid.doctor.pairing import check_pairing
from pellucid.doctor.results import Check
from pellucid.doctor.scripts import Sides, check_languages
from pellucid.doctor.text import has_markup, is_damaged

GOOD = sentences()


def sides(name: str, texts: list[str]) -> Sides:
    return Sides(name, (["la"] * len(texts), texts), list(range(1, len(texts) + 1)), f"{name}.tsv")


def in_script(train: list[str], dev: list[str]) -> Check:
    checks = check_languages(sides("train", train), sides("dev", dev))
    (found,) = [check for check in checks if check.name == "dev's target in train's script"]
    return found


def test_dev_may_be_one_of_the_languages_of_train() -> None:
    german, chinese = ["ein Haus am See"] * 80, ["湖边的房子和树林"] * 20
    assert in_script(german + chinese, chinese).verdict == "ok"
    assert in_script(german * 50 + chinese[:1], chinese).verdict == "suspicious"
    found = in_script(german + chinese[:0], chinese)
    assert found.verdict == "wrong" and "written in East Asian letters (100.0%)" in found.sentence
    # A name in a text of another script does not make that script one of train's own.
    assert in_script([*german * 50, "ein Haus am 湖"], chinese).verdict == "wrong"


class Store(TextStore):
    """Pairs in memory."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    @property
    def report(self) -> CorpusReport:
        return CorpusReport("train", place="train.tsv")

    def __len__(self) -> int:
        return len(self.pairs)

    def source(self, row: int) -> str:
        return self.pairs[row][0]

    def target(self, row: int) -> str:
        return self.pairs[row][1]

    def line(self, row: int) -> int:
        return row + 1


def aligned(pairs: Pairs) -> Check:
    return check_pairing(Store(pairs), "train")


def slipped(lack: int, back: int | None = None, count: int = 9000) -> Pairs:
    """A target is missing from a line on; up to ``back``, where it is again, if that is said."""
    pairs = lines(5, count)
    targets = [target for _, target in pairs]
    lost = targets.pop(lack)
    targets.insert(len(targets) if back is None else back, lost)
    return [(source, target) for (source, _), target in zip(pairs, targets, strict=True)]


def test_a_slip_is_placed_between_two_lines() -> None:
    found = aligned(slipped(6420))
    assert found.verdict == "wrong", found
    words = found.sentence.replace(",", "").split()
    first, last = int(words[words.index("between") + 1]), int(words[words.index("between") + 3])
    assert first <= 6421 <= last and last - first < 700


def test_a_slip_that_later_lines_do_not_confirm_is_not_certain() -> None:
    found = aligned(slipped(2000, 6000))
    assert found.verdict == "suspicious" and "later lines do not agree" in found.sentence


def test_a_slip_among_shared_texts_is_not_certain() -> None:
    rng = random.Random(2)
    pairs = slipped(0, count=1000)
    for row in rng.sample(range(1, 999), 120):
        pairs[row] = (pairs[row - 1][1], pairs[row][1])
    found = aligned(pairs)
    assert found.verdict == "suspicious" and "neighbouring pairs share texts" in found.sentence


def test_a_dialogue_with_the_turn_before_in_the_source_is_not_refused() -> None:
    said = dialogue().train
    pairs = [(f"{before[0]} {source}", target) for before, (source, target) in itertools.pairwise(said)]
    assert aligned(pairs).verdict == "absent"


def test_copies_are_counted_in_the_whole_corpus(tmp_path: Path) -> None:
    """Where a sample of 2,000 sees hardly any pair with its copy."""
    pairs = [(f"{i} ta", f"{i} ло") for i in range(4000)]
    twice = [*pairs, *pairs]
    random.Random(3).shuffle(twice)
    changes = dict(tokenizer__kind="characters", data__max_unknown=0.9)
    found = look(GOOD.with_train(twice).config(tmp_path / "twice", **changes), tmp_path)
    assert found["train: pairs repeat"].verdict == "suspicious"
    assert found["train: pairs repeat"].figure.startswith("50.0%")


def test_a_few_copies_are_usual(tmp_path: Path) -> None:
    checks = look(GOOD.with_train([*GOOD.train, *GOOD.train[:120]]).config(tmp_path), tmp_path)
    assert checks["train: pairs repeat"].verdict == "ok"
    assert checks["train: pairs repeat"].figure.startswith("16.7%")


def test_every_training_pair_is_compared_and_progress_is_told(tmp_path: Path) -> None:
    data = prepare(GOOD.config(tmp_path), tmp_path / "run")
    seen: list[int] = []
    last = data.train.source_text(len(data.train) - 1)
    found = find_overlap(data.train, {"".join(c for c in last.casefold() if c.isalnum())}, seen.append)
    assert list(found.sources.values()) == [len(GOOD.train)] and len(found.pairs) == 1 and seen == [0]


def test_a_few_leaks_are_said_without_being_a_finding(tmp_path: Path) -> None:
    world = replace(GOOD, dev=[*GOOD.dev[:118], *GOOD.train[:2]])
    found = look(world.config(tmp_path), tmp_path)["dev: in train, too"]
    assert found.verdict == "ok" and found.sentence.startswith("2 of 120 pairs of dev")


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        ("« Je suis fatigué\u00a0»", False),
        ("un café\u00a0», dit-il", False),
        ("bébé»\u00a0!", False),
        ("il l’a énoncé”…", False),
        ("à 20°C, Île-de-France", False),
        ("fatiguÃ©", True),
        ("donâ€™t", True),
        ("voilÃ\u00a0", True),
        ("我们".encode().decode("latin-1"), True),
        ("我们".encode().decode("cp1252"), True),
        ("a \ufffd b", True),
    ],
)
def test_damage_and_typography(text: str, damaged: bool) -> None:
    assert is_damaged(text) is damaged


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("a List<int> of numbers", False),
        ("<de> ein Haus", False),
        ("<BT>ein Haus", False),
        ("a < b and c > d", False),
        ("<seg>ein Haus</seg>", True),
        ("<de> ein <b>Haus</b>", True),
        ("ein<br/>Haus", True),
        ("ein <a href='x'>Haus", True),
        ("Tom &amp; Jerry", True),
    ],
)
def test_markup_and_signs(text: str, markup: bool) -> None:
    assert has_markup(text) is markup


@pytest.fixture(scope="module")
def in_bytes(well: tuple[Path, PreparedData]) -> tuple[Path, PreparedData]:
    folder, data = well
    tokenizer = ByteTokenizer(Specials(pad=0, eos=1, unk=2, bos=0), 259)
    return folder, replace(data, source_tokenizer=tokenizer, target_tokenizer=tokenizer)


def test_a_tokenizer_of_bytes_spells_everything_as_bytes(in_bytes: tuple[Path, PreparedData]) -> None:
    folder, data = in_bytes
    names = [check.name for check in quick_checks(parse_config(GOOD.nested(folder)), data)]
    assert not [name for name in names if "spelled as bytes" in name]


TUNING: dict[str, tuple[dict[str, Any], str, str]] = {
    "a low rate on a trained model": (
        dict(training__learning_rate=5e-6, training__init_from="some/model"),
        "learning rate",
        "ok",
    ),
    "a low rate on a trained encoder": (
        dict(training__learning_rate=5e-6, training__encoder_from="some/model"),
        "learning rate",
        "ok",
    ),
    "a low rate from scratch": (dict(training__learning_rate=5e-6), "learning rate", "suspicious"),
    "a vocabulary that is there": (
        dict(training__init_from="some/model"),
        "vocabulary for this much text",
        "absent",
    ),
    "R-Drop without dropout": (
        dict(training__r_drop=5.0, model__dropout=0.0),
        "R-Drop has dropout to compare",
        "suspicious",
    ),
    "R-Drop with dropout": (dict(training__r_drop=5.0), "R-Drop has dropout to compare", "ok"),
}


@pytest.mark.parametrize("name", TUNING)
def test_settings_of_a_run_that_starts_from_a_model(name: str, well: tuple[Path, PreparedData]) -> None:
    changes, check, verdict = TUNING[name]
    folder, data = well
    checks = {found.name: found for found in quick_checks(parse_config(GOOD.nested(folder, **changes)), data)}
    assert checks[check].verdict == verdict, checks[check]


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    folder = tmp_path_factory.mktemp("well")
    data = prepare(GOOD.config(folder), folder / "prepared")
    return folder, data


def test_worlds_are_read_in_both_scripts_without_refusal(tmp_path: Path) -> None:
    """Two scripts, both directions: may be meant, and is not refused."""

    def both(pairs: Pairs) -> Pairs:
        return [pair for source, target in pairs for pair in ((source, target), (target, source))]

    world = World(both(GOOD.train), both(GOOD.dev), both(GOOD.test), {"joint": True})
    assert not [check for check in look(world.config(tmp_path), tmp_path).values() if check.verdict == "wrong"]
