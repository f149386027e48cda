"""Mistakes put into a run in which nothing is wrong: each is noticed before the first update, with its sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from doctor_cases import WORLDS, World, characters, look, sentences

from pellucid.config import parse_config
from pellucid.data.prepare import PreparedData, prepare
from pellucid.doctor.examination import quick_checks
from pellucid.errors import ConfigError, DataError, PellucidError, TokenizerError

GOOD = sentences()


@dataclass(frozen=True)
class Mistake:
    """One mistake in the text.

    Attributes:
        make: puts it into a world.
        check: the check that notices it.
        says: words of its sentence, in order.
        wrong: whether it is beyond doubt.
    """

    make: Callable[[World], World]
    check: str
    says: tuple[str, ...]
    wrong: bool = False


def targets(world: World, change: Callable[[list[str]], list[str]]) -> World:
    changed = change([target for _, target in world.train])
    return world.with_train([(source, target) for (source, _), target in zip(world.train, changed, strict=True)])


def some(world: World, share: float, change: Callable[[str, str], tuple[str, str]]) -> World:
    rng = random.Random(5)
    return world.with_train([change(*pair) if rng.random() < share else pair for pair in world.train])


def greek(text: str) -> str:
    return "".join(chr(0x3B1 + ord(c) % 17) if c.isalpha() else c for c in text)


def shuffled(lines: list[str]) -> list[str]:
    return random.Random(5).sample(lines, len(lines))


def other_words(world: World) -> World:
    dev = [
        ("".join(chr(219 - ord(c)) if "a" <= c <= "z" else c for c in source), target) for source, target in world.dev
    ]
    return replace(world, dev=dev)


def wrongly_encoded(text: str) -> str:
    return text.encode().decode("latin-1")


TEXT = {
    "the target file begins a line late": Mistake(
        lambda world: targets(world, lambda lines: [lines[-1], *lines[:-1]]),
        "train: sides aligned",
        ("train: from about line 1 of", "fits the target 1 line later", "align them again"),
        wrong=True,
    ),
    "the target file begins two lines early": Mistake(
        lambda world: targets(world, lambda lines: [*lines[2:], *lines[:2]]),
        "train: sides aligned",
        ("fits the target 2 lines earlier",),
        wrong=True,
    ),
    "a line is missing in the middle": Mistake(
        lambda world: targets(world, lambda lines: [*lines[:280], *lines[281:], lines[280]]),
        "train: sides aligned",
        ("from a line between 151 and 400 of", "1 line earlier"),
        wrong=True,
    ),
    "the target file is shuffled": Mistake(
        lambda world: targets(world, shuffled), "train: sides aligned", ("no more to do with each other",)
    ),
    "the target file is sorted": Mistake(
        lambda world: targets(world, sorted), "train: sides aligned", ("no more to do with each other",)
    ),
    "dev's target file begins a line late": Mistake(
        lambda world: replace(
            world,
            dev=[(pair[0], before[1]) for pair, before in zip(world.dev, [world.dev[-1], *world.dev], strict=False)],
        ),
        "dev: sides aligned",
        ("dev: from about line 1 of", "1 line later"),
        wrong=True,
    ),
    "dev is a part of train": Mistake(
        lambda world: replace(world, dev=world.train[:120]),
        "dev: in train, too",
        ("120 of 120 pairs of dev", "its pair 1 is in line 1 of train", "take them out of train"),
    ),
    "dev is a part of train in other case and marks": Mistake(
        lambda world: replace(world, dev=[(s.upper()[:-1], f"„{t.capitalize()}“") for s, t in world.train[:120]]),
        "dev: in train, too",
        ("120 of 120 pairs of dev", "without regard to case"),
    ),
    "dev's sources are in train with other translations": Mistake(
        lambda world: replace(world, dev=[(s, t[:-1] + " пя.") for s, t in world.train[:120]]),
        "dev: in train, too",
        ("120 of 120 sources of dev",),
    ),
    "a part of test is in train": Mistake(
        lambda world: replace(world, test=[*world.test[:100], *world.train[:20]]),
        "test: in train, too",
        ("20 of 120 pairs of test", "learned by heart"),
    ),
    "dev's source is in another script": Mistake(
        lambda world: replace(world, dev=[(greek(source), target) for source, target in world.dev]),
        "dev's source in train's script",
        ("is written in Greek letters", "train's in Latin"),
        wrong=True,
    ),
    "dev is of another domain": Mistake(
        other_words, "dev's source resembles train's", ("another language or another domain",)
    ),
    "a tenth of the lines is swapped": Mistake(
        lambda world: some(world, 0.1, lambda source, target: (target, source)),
        "train: source in one script",
        ("are not in Latin letters but in Cyrillic", "line "),
    ),
    "a tenth is in a third language": Mistake(
        lambda world: some(world, 0.1, lambda source, target: (source, greek(target))),
        "train: target in one script",
        ("not in Cyrillic letters but in Greek",),
    ),
    "a tenth of the targets says something in the source's language": Mistake(
        lambda world: some(world, 0.1, lambda source, target: (source, source[:-1] + " mo.")),
        "train: target texts look like target texts",
        ("of train's target texts look like its source side", "never translated"),
    ),
    "a fifth is not translated": Mistake(
        lambda world: some(world, 0.2, lambda source, target: (source, source)),
        "train: both sides the same",
        ("have the same text on both sides", "train.src, line", "copy"),
    ),
    "a tenth has no target": Mistake(
        lambda world: some(world, 0.1, lambda source, target: (source, "")),
        "train: dropped, empty",
        ("have an empty side", "train.src, line"),
    ),
    "the target is another column": Mistake(
        lambda world: some(world, 0.9, lambda source, target: (source, "CC BY 4.0")),
        "train: one target for many",
        ("“CC BY 4.0”", "another column"),
    ),
    "the file is joined with itself": Mistake(
        lambda world: world.with_train(world.train * 2), "train: pairs repeat", ("50.0%", "joined with itself")
    ),
    "the target was read as Latin-1": Mistake(
        lambda world: targets(world, lambda lines: list(map(wrongly_encoded, lines))),
        "train: damaged encoding",
        ("UTF-8 that was read as another encoding", "train.src, line "),
    ),
    "the target has tags": Mistake(
        lambda world: targets(world, lambda lines: [f"<seg>{line}</seg>" for line in lines]),
        "train: markup in the text",
        ("tags or entities of HTML",),
    ),
}

SETTINGS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "learning rate too high": (
        dict(training__learning_rate=0.3),
        "learning rate",
        ("training.learning_rate = 0.3 is above", "take 0.0005 to 0.003"),
    ),
    "learning rate too low": (dict(training__learning_rate=1e-7), "learning rate", ("1e-07 is below",)),
    "warm-up longer than the run": (
        dict(training__warmup_steps=4000),
        "warm-up inside the run",
        ("training.warmup_steps = 4,000 is not shorter than the run of 200 updates",),
    ),
    "batch too small": (
        dict(training__batch_tokens=48),
        "size of an update",
        ("training.batch_tokens = 48 with accumulate = 1", "raise"),
    ),
    "pairs longer than a batch": (
        dict(training__batch_tokens=16),
        "longest pair inside a batch",
        ("are longer than training.batch_tokens = 16", "train.src, line"),
    ),
    "label smoothing": (
        dict(training__label_smoothing=0.7),
        "dropout, smoothing, decay",
        ("training.label_smoothing = 0.7 (at most 0.3)",),
    ),
    "dropout": (dict(model__dropout=0.8), "dropout, smoothing, decay", ("model.dropout = 0.8 (at most 0.5)",)),
    "weight decay": (dict(training__weight_decay=10.0), "dropout, smoothing, decay", ("weight_decay = 10",)),
    "second moment": (dict(training__adam_beta2=0.5), "optimiser", ("adam_beta1 = 0.9 is not below adam_beta2 = 0.5",)),
    "clipping to nothing": (
        dict(training__max_grad_norm=1e-5),
        "optimiser",
        ("max_grad_norm = 1e-05 (at least 0.01)",),
    ),
    "sampling behind the end": (
        dict(training__scheduled_sampling=0.3, training__scheduled_sampling_start=200),
        "scheduled sampling inside the run",
        ("training.scheduled_sampling_start = 200", "the run of 200 updates"),
    ),
    "average of more than the run": (
        dict(training__ema_decay=0.9999),
        "averaged weights",
        ("training.ema_decay = 0.9999", "10,000 updates and the run has 200", "0.99 fits"),
    ),
    "validation behind the end": (
        dict(training__validate_after=1000),
        "validation",
        ("the first validation would be at update 1,000", "has 200 updates"),
    ),
    "patience shorter than the warm-up": (
        dict(training__patience=1, training__validate_every=5, training__warmup_steps=100),
        "validation",
        ("training.patience = 1", "end the run at update 10"),
    ),
    "no positions": (dict(model__positions="none"), "word order is seen", ("model.positions = none",)),
    "generation cut short": (
        dict(decoding__max_length=5),
        "length limit reaches dev's references",
        ("of 120 references of dev", "dev.src, line", "longer than decoding.max_length = 5"),
    ),
    "generation cut short by the ratio": (
        dict(decoding__max_length_ratio=0.1, decoding__max_length_extra=1),
        "length limit reaches dev's references",
        ("decoding.max_length_ratio = 0.1",),
    ),
    "generation drawn out": (
        dict(decoding__min_length=30),
        "minimum length lets dev's references be",
        ("shorter than decoding.min_length = 30",),
    ),
    "no word twice": (
        dict(decoding__no_repeat_ngram=1),
        "references obey the rules on repetition",
        ("decoding.no_repeat_ngram = 1 forbids", "4 or more"),
    ),
    "repetition penalty": (
        dict(decoding__repetition_penalty=5.0),
        "references obey the rules on repetition",
        ("decoding.repetition_penalty = 5",),
    ),
}

PREPARING: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "targets cut": (
        dict(data__max_target_tokens=8),
        "train: dropped, too long",
        ("longer than data.max_source_tokens or data.max_target_tokens", "raise these limits"),
    ),
    "sides must be of one length": (
        dict(data__max_length_ratio=1.01),
        "train: dropped, ratio",
        ("data.max_length_ratio", "raise it"),
    ),
    "vocabulary too large": (
        dict(tokenizer__vocab_size=8000, tokenizer__joint=True, tokenizer__model="bpe"),
        "vocabulary for this much text",
        ("entries and the training text has", "lower it to about 300"),
    ),
}

REFUSED: dict[str, tuple[Callable[[World], World], dict[str, Any], type[PellucidError], str]] = {
    "dev is swapped": (
        lambda world: replace(world, dev=[(target, source) for source, target in world.dev]),
        {},
        DataError,
        "the two sides of dev are swapped",
    ),
    "one file twice": (
        lambda world: world.with_train([(source, source) for source, _ in world.train]),
        {},
        DataError,
        "one file or column was given twice",
    ),
    "letters that train does not have": (
        lambda world: replace(world, dev=[(greek(source), target) for source, target in world.dev]),
        dict(tokenizer__byte_fallback=False),
        TokenizerError,
        "of dev's source tokens unknown",
    ),
    "a table of positions too short": (
        lambda world: world,
        dict(model__positions="learned", model__max_positions=64),
        ConfigError,
        r"model.max_positions \(64\) is shorter than the longest training sequence",
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_where_nothing_is_wrong_nothing_is_found(name: str, tmp_path: Path) -> None:
    world = WORLDS[name]()
    checks = look(world.config(tmp_path), tmp_path)
    assert [check for check in checks.values() if check.found] == []
    # The characters are sorted by length, and in the last three neighbours share texts: nothing is left to compare.
    aligned = "ok" if name in ("sentences", "spellings") else "absent"
    assert checks["train: sides aligned"].verdict == aligned
    assert name not in ("sentences", "spellings", "characters") or checks["dev: sides aligned"].verdict == "ok"
    assert checks["dev: in train, too"].verdict == "ok"
    assert len(checks) > 40


@pytest.mark.parametrize("name", TEXT)
def test_a_mistake_in_the_text_is_found(name: str, tmp_path: Path) -> None:
    mistake = TEXT[name]
    found = look(mistake.make(GOOD).config(tmp_path), tmp_path)[mistake.check]
    assert found.verdict == ("wrong" if mistake.wrong else "suspicious"), found
    check_sentence(found.sentence, mistake.says)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    folder = tmp_path_factory.mktemp("good")
    return folder, prepare(GOOD.config(folder), folder / "prepared")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_mistake_in_the_settings_is_found(name: str, prepared: tuple[Path, PreparedData]) -> None:
    changes, check, says = SETTINGS[name]
    folder, data = prepared
    checks = {found.name: found for found in quick_checks(parse_config(GOOD.nested(folder, **changes)), data)}
    assert checks[check].verdict == "suspicious", checks[check]
    check_sentence(checks[check].sentence, says)
    assert {found.name for found in checks.values() if found.found} <= {check, "size of an update"}


@pytest.mark.parametrize("name", PREPARING)
def test_a_mistake_in_how_text_is_prepared_is_found(name: str, tmp_path: Path) -> None:
    changes, check, says = PREPARING[name]
    found = look(GOOD.config(tmp_path, **changes), tmp_path)[check]
    assert found.verdict == "suspicious", found
    check_sentence(found.sentence, says)


def test_characters_that_the_vocabulary_lacks_are_found(tmp_path: Path) -> None:
    world = characters()
    others = [("".join(chr(ord(c) + 1) if c != "。" else c for c in source), target) for source, target in world.dev]
    checks = look(replace(world, dev=others).config(tmp_path), tmp_path)
    found = checks["dev: source spelled as bytes"]
    assert found.verdict == "suspicious", found
    check_sentence(found.sentence, ("of dev's source tokens are single bytes", "tokenizer.vocab_size"))
    assert checks["train: source spelled as bytes"].verdict == "ok"


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_that_no_run_begins_with(name: str, tmp_path: Path) -> None:
    make, changes, kind, says = REFUSED[name]
    with pytest.raises(kind, match=says):
        look(make(GOOD).config(tmp_path, **changes), tmp_path)


def test_a_test_corpus_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    config = GOOD.config(tmp_path)
    (tmp_path / "text" / "test.src").unlink()
    found = look(config, tmp_path)["test: in train, too"]
    assert found.verdict == "suspicious" and "no such file" in found.sentence


def check_sentence(sentence: str, says: tuple[str, ...]) -> None:
    """One sentence, with these words in this order."""
    assert "\n" not in sentence and "  " not in sentence
    place = 0
    for words in says:
        place = sentence.find(words, place)
        assert place >= 0, (words, sentence)
