from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import data_cases
import pytest

from pellucid.config import Config, parse_config
from pellucid.data import chinese, reading
from pellucid.data import prepare as module
from pellucid.data.corpus import Pair
from pellucid.data.dataset import open_texts
from pellucid.data.overlap import count_leaks
from pellucid.data.prepare import PreparedData, prepare
from pellucid.data.reading import holdout_rows
from pellucid.data.report import CorpusReport
from pellucid.data.script import looks_swapped, profile, similarity
from pellucid.data.text import TextRules, markers
from pellucid.data.tokenizer import load_rules
from pellucid.data.tokenizer_kinds import UNK, SymbolTokenizer
from pellucid.errors import ConfigError, DataError, MissingExtraError, TokenizerError

TRAIN = data_cases.sentence_pairs(300)
DEV = data_cases.sentence_pairs(30, start=400)


def _config(dir: Path, dev: bool = True, data: dict[str, Any] | None = None, **tokenizer: Any) -> Config:
    settings: dict[str, Any] = {"dir": str(dir), "train": {"path": "train.tsv"}, **(data or {})}
    if dev:
        settings.setdefault("dev", {"path": "dev.tsv"})
    return parse_config({"data": settings, "tokenizer": {"vocab_size": 400, **tokenizer}, "model": _UNTIED})


_UNTIED = {"tied_embeddings": "two"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    data_cases.write_tsv(tmp_path / "text" / "train.tsv", TRAIN)
    data_cases.write_tsv(tmp_path / "text" / "dev.tsv", DEV)
    return tmp_path / "text"


def _texts_of(data: PreparedData) -> list[tuple[str, str]]:
    return [(data.train.source_text(i), data.train.target_text(i)) for i in range(len(data.train))]


def test_everything_a_run_needs(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = prepare(_config(text), run)
    assert data.source_tokenizer is data.target_tokenizer
    assert _texts_of(data) == TRAIN
    assert list(zip(data.dev_sources, data.dev_references, strict=True)) == DEV
    assert len(data.dev) == 30
    for index, (source, target) in enumerate(DEV):
        assert data.source_tokenizer.decode(data.dev.source(index).tolist()) == source
        assert data.target_tokenizer.decode(data.dev.target(index).tolist()) == target
    assert data.report == ["train: 300 pairs read, 300 kept.", "dev: 30 pairs read, 30 kept."]
    assert sorted(path.name for path in run.iterdir()) == ["cache", "tokenizer"]


def test_a_second_time_nothing_is_read_learned_or_tokenised(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(_config(text), tmp_path / "run")
    monkeypatch.setattr(reading, "read_pairs", None)
    monkeypatch.setattr(module, "train_tokenizers", None)
    monkeypatch.setattr("pellucid.data.dataset._tokenise", None)
    again = prepare(_config(text), tmp_path / "run")
    assert again.report == first.report
    assert _texts_of(again) == TRAIN
    assert (again.train.key, again.dev.key) == (first.train.key, first.dev.key)


def test_changed_text_is_noticed_and_the_tokenizer_stays(text: Path, tmp_path: Path) -> None:
    first = prepare(_config(text), tmp_path / "run")
    data_cases.write_tsv(text / "train.tsv", [*TRAIN, ("the cat", "die Katze")])
    again = prepare(_config(text), tmp_path / "run")
    assert len(again.train) == 301
    assert again.train.source_text(300) == "the cat"
    assert again.source_tokenizer.fingerprint == first.source_tokenizer.fingerprint


def test_the_cache_may_be_elsewhere(text: Path, tmp_path: Path) -> None:
    prepare(_config(text), tmp_path / "run", cache=tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer"]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [
        "dev-texts",
        "dev-tokens",
        "train-texts",
        "train-tokens",
    ]


def test_a_half_written_tokenizer_folder_is_learned_again(text: Path, tmp_path: Path) -> None:
    first = prepare(_config(text), tmp_path / "run")
    (tmp_path / "run" / "tokenizer" / "tokenizer.json").unlink()
    again = prepare(_config(text), tmp_path / "run")
    assert again.source_tokenizer.fingerprint == first.source_tokenizer.fingerprint


def test_kinds_by_side(tmp_path: Path) -> None:
    pairs = [(word, " ".join(word.upper())) for word in ("abc", "bca", "cab", "aabb", "ccba", "bb")]
    data_cases.write_tsv(tmp_path / "train.tsv", pairs)
    data_cases.write_tsv(tmp_path / "dev.tsv", pairs[:2])
    data = prepare(_config(tmp_path, kind="characters", target_kind="symbols"), tmp_path / "run")
    assert (data.source_tokenizer.kind, data.target_tokenizer.kind) == ("characters", "symbols")
    assert data.train.target_lengths.tolist() == [3, 3, 3, 4, 4, 2]
    assert data.dev_references == ["A B C", "B C A"]
    assert isinstance(data.target_tokenizer, SymbolTokenizer)


def test_text_goes_through_the_rules_on_its_way_to_the_tokenizers(tmp_path: Path) -> None:
    pairs = [(f"我愛{n}隻貓。", f"I love {n} cats.") for n in range(40)] + [("头发", "hair"), ("7", "seven")]
    data_cases.write_tsv(tmp_path / "train.tsv", pairs)
    data_cases.write_tsv(tmp_path / "dev.tsv", [("我爱77只猫", "I love 77 cats"), ("我愛7隻貓", "I love seven cats")])
    settings = dict(joint=False, placeholders=["number"], byte_fallback=False, vocab_size=60)
    data = prepare(_config(tmp_path, **settings, source_script="simplified"), tmp_path / "run")
    assert data.rules == load_rules(tmp_path / "run" / "tokenizer") == TextRules("simplified", "none", ("number",))
    (number, *_) = markers(["number"])
    decode = data.source_tokenizer.decode
    assert decode(data.train.source(3).tolist()) == f"我爱{number}只猫。"
    assert data.target_tokenizer.decode(data.train.target(3).tolist()) == f"I love {number} cats."
    # Both scripts are the same, and only what both sides have is replaced.
    assert decode(data.dev.source(0).tolist()) == f"我爱{number}只猫"
    assert decode(data.dev.source(1).tolist()) == "我爱7只猫"
    # The vocabulary was learned from the text as read; what people see is the text as written.
    assert not data.source_tokenizer.unknown("爱只猫头发") and data.source_tokenizer.unknown("愛") == ["愛"]
    assert data.dev_sources == ["我爱77只猫", "我愛7隻貓"]
    # Other rules are other tokens.
    other = prepare(_config(tmp_path, data={"max_unknown": 0.5}, **settings), tmp_path / "run")
    assert other.train.key != data.train.key


def test_without_opencc_nothing_begins(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._opencc.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[chinese\]'$"):
        prepare(_config(text, source_script="traditional"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    chinese._opencc.cache_clear()


def test_progress_names_what_is_done(tmp_path: Path) -> None:
    pairs = [(f"the cat {number}", f"die Katze {number}") for number in range(1500)]
    data_cases.write_tsv(tmp_path / "train.tsv", pairs)
    data_cases.write_tsv(tmp_path / "dev.tsv", DEV)
    heard: list[tuple[str, int]] = []
    prepare(_config(tmp_path, vocab_size=350), tmp_path / "run", lambda stage, done: heard.append((stage, done)))
    assert heard == [("read train", 1000), ("learn tokenizer", 1500), ("tokenise train", 1000)]


def test_a_very_large_corpus_is_sampled_evenly_to_learn_the_vocabulary(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VOCABULARY_PAIRS", 100)
    seen: list[list[tuple[str, str]]] = []
    learn = module.train_tokenizers
    monkeypatch.setattr(
        module, "train_tokenizers", lambda config, pairs, _: (seen.append(list(pairs)), learn(config, pairs))[1]
    )
    prepare(_config(text), tmp_path / "run")
    assert seen == [TRAIN[::3]]


# --- findings -----------------------------------------------------------------------------------------------------


def test_what_was_dropped_is_reported_with_lines(tmp_path: Path) -> None:
    pairs = [*TRAIN[:100], ("", "leer"), ("Tom", "Tom"), ("the " * 60, "die"), TRAIN[7]]
    data_cases.write_tsv(tmp_path / "train.tsv", pairs)
    (tmp_path / "train.tsv").write_bytes((tmp_path / "train.tsv").read_bytes() + b"bad\xff\tline\n")
    data_cases.write_tsv(tmp_path / "dev.tsv", [*DEV, TRAIN[7], ("the " * 60, "die"), TRAIN[3], TRAIN[3]])
    config = _config(tmp_path, data={"on_bad_line": "drop", "max_length_ratio": 5.0})
    data = prepare(config, tmp_path / "run")
    without = data.report
    count_leaks(data.train, [data.dev])
    train, dev = f"first: {tmp_path}/train.tsv", f"first: {tmp_path}/dev.tsv"
    assert data.report == [
        "train: 105 pairs read, 102 kept.",
        f"train: dropped 1 pair with an empty side ({train}, line 101).",
        f"train: kept 1 pair whose two sides are the same text ({train}, line 102).",
        f"train: dropped 1 pair whose line is not UTF-8 or has too few columns ({train}, line 105).",
        f"train: dropped 1 pair whose sides differ in length by more than data.max_length_ratio ({train}, line 103).",
        "dev: 34 pairs read, 34 kept.",
        f"dev: 3 pairs also in the training corpus: scores on them flatter the model ({dev}, line 31).",
    ]
    assert (data.train_report.kept, len(data.train)) == (102, 102)
    assert prepare(config, tmp_path / "run").report == without == data.report[:-1]


def test_the_length_limits_hold_for_dev_too_and_its_texts_follow(text: Path, tmp_path: Path) -> None:
    data_cases.write_tsv(text / "dev.tsv", [DEV[0], ("the cat " * 100, "die Katze " * 100), DEV[1]])
    data = prepare(_config(text, data={"max_source_tokens": 100}), tmp_path / "run")
    assert data.dev_sources == [DEV[0][0], DEV[1][0]]
    assert data.dev_references == [DEV[0][1], DEV[1][1]]
    assert data.report[-1] == (
        "dev: dropped 1 pair longer than data.max_source_tokens or data.max_target_tokens "
        f"(first: {text}/dev.tsv, line 2)."
    )


def test_no_training_corpus_is_an_error_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.train is not set: give source and target, or path$"):
        prepare(Config(), tmp_path)


def test_swapped_sides_are_an_error(text: Path, tmp_path: Path) -> None:
    data_cases.write_tsv(text / "dev.tsv", [(target, source) for source, target in DEV])
    with pytest.raises(DataError) as caught:
        prepare(_config(text), tmp_path / "run")
    assert str(caught.value) == (
        "the two sides of dev are swapped: its source looks like train's target and its target like train's source; "
        "exchange source and target of data.dev (or of data.train)"
    )
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_sides_in_the_same_script_and_alike_are_not_called_swapped(tmp_path: Path) -> None:
    words = ["".join("abcdefgh"[(number * k) % 8] for k in (1, 3, 5, 7, 2)) for number in range(120)]
    data_cases.write_tsv(tmp_path / "train.tsv", [(word, word[::-1]) for word in words[:100]])
    data_cases.write_tsv(tmp_path / "dev.tsv", [(word, word[::-1]) for word in words[100:]])
    assert len(prepare(_config(tmp_path, kind="characters"), tmp_path / "run").dev) == 20


def test_swapped_is_decided_by_character_statistics() -> None:
    english, german = profile(s for s, _ in TRAIN), profile(t for _, t in TRAIN)
    for number in (0, 5, 20):
        source, target = profile([DEV[number][0]]), profile([DEV[number][1]])
        assert looks_swapped((english, german), (target, source))
        assert not looks_swapped((english, german), (source, target))
    assert not looks_swapped((english, german), (english, english))
    assert not looks_swapped((english, german), (profile([]), profile([])))


def test_similarity_is_one_for_equal_distributions_and_zero_for_nothing_shared() -> None:
    assert profile(["aba"]) == {"a": 2, "b": 1, "ab": 1, "ba": 1}
    assert similarity(profile(["ab"] * 3), profile(["ab"])) == pytest.approx(1.0)
    assert similarity(profile(["ab"]), profile(["cd"])) == 0.0
    assert similarity(profile(["a"]), profile(["ab"])) == pytest.approx(3**-0.5)
    assert similarity(profile([]), profile(["a"])) == 0.0


@pytest.mark.parametrize("side", [0, 1])
def test_too_much_unknown_text_is_an_error_with_share_and_examples(tmp_path: Path, side: int) -> None:
    dev = [list(pair) for pair in DEV]
    dev[0][side] += " 猫猫狗"
    data_cases.write_tsv(tmp_path / "train.tsv", TRAIN)
    data_cases.write_tsv(tmp_path / "dev.tsv", [(s, t) for s, t in dev])
    total = sum(len(pair[side]) for pair in dev)
    with pytest.raises(TokenizerError) as caught:
        prepare(_config(tmp_path, kind="characters", data={"max_unknown": 3 / total - 1e-9}), tmp_path / "run")
    assert str(caught.value).startswith(
        f"the vocabulary leaves {3 / total:.1%} of dev's {('source', 'target')[side]} tokens unknown "
        f"(data.max_unknown is {3 / total:.1%}), for example 猫 狗: "
    )
    data = prepare(_config(tmp_path, kind="characters", data={"max_unknown": 3 / total}), tmp_path / "run")
    tokens = (data.dev.source(0), data.dev.target(0))[side]
    assert tokens.tolist().count(UNK) == 3


@pytest.mark.parametrize(("name", "pairs"), [("train", [("", "a"), ("b", " ")]), ("dev", [("", "")])])
def test_nothing_left_after_cleaning(text: Path, tmp_path: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    data_cases.write_tsv(text / f"{name}.tsv", pairs)
    count = "2 pairs" if name == "train" else "1 pair"
    with pytest.raises(DataError) as caught:
        prepare(_config(text), tmp_path / "run")
    assert str(caught.value) == (
        f"no pair of {name} is left after cleaning: {name}: {count} read, 0 kept. "
        f"{name}: dropped {count} with an empty side (first: {text}/{name}.tsv, line 1)."
    )


def test_nothing_left_after_tokenising(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^no pair of train is left: train: 300 pairs read, 0 kept\. train: dropped 300"
    ):
        prepare(_config(text, data={"max_source_tokens": 1}), tmp_path / "run")


def test_text_must_be_there_again_when_a_run_resumes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    for path in ("-", str(tmp_path / "pipe.tsv")):
        config = parse_config({"data": {"train": {"path": path}}})
        with pytest.raises(DataError, match="give a file, not a pipe"):
            prepare(config, tmp_path / "run")


def test_errors_of_the_corpus_come_through(text: Path, tmp_path: Path) -> None:
    (text / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"dev\.tsv: no such file"):
        prepare(_config(text), tmp_path / "run")
    (text / "train.tsv").write_bytes(b"a\tb\nc\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 2: 1 column"):
        prepare(_config(text), tmp_path / "run")


# --- hold-out -----------------------------------------------------------------------------------------------------


def _holdout(tmp_path: Path, pairs: list[tuple[str, str]], wanted: int, key: str) -> tuple[list[int], list[int]]:
    texts = open_texts(
        tmp_path / key, key, lambda: [Pair(s, t, 1) for s, t in pairs], CorpusReport("train", len(pairs))
    )
    train, dev = holdout_rows(texts, wanted)
    assert sorted([*train.tolist(), *dev.tolist()]) == list(range(len(pairs)))
    return train.tolist(), dev.tolist()


def test_without_dev_a_part_is_set_aside(text: Path, tmp_path: Path) -> None:
    data = prepare(_config(text, dev=False, data={"holdout": 20}), tmp_path / "run")
    assert (len(data.train), len(data.dev)) == (280, 20)
    dev = list(zip(data.dev_sources, data.dev_references, strict=True))
    assert sorted([*_texts_of(data), *dev]) == sorted(TRAIN)
    assert not {source for source, _ in dev} & {source for source, _ in _texts_of(data)}
    assert data.report == [
        "train: 280 pairs read, 280 kept.",
        "dev (set aside from train): 20 pairs read, 20 kept.",
    ]
    again = prepare(_config(text, dev=False, data={"holdout": 20}), tmp_path / "other")
    assert again.dev_sources == data.dev_sources


def test_the_vocabulary_is_not_learned_from_what_is_set_aside(text: Path, tmp_path: Path) -> None:
    data = prepare(_config(text, dev=False), tmp_path / "run")
    data_cases.write_tsv(text / "rest.tsv", _texts_of(data))
    rest = prepare(_config(text, data={"train": {"path": "rest.tsv"}}), tmp_path / "rest")
    assert rest.source_tokenizer.fingerprint == data.source_tokenizer.fingerprint


def test_at_most_a_tenth_is_set_aside_and_at_least_one(tmp_path: Path) -> None:
    pairs = [(f"source {number}", f"target {number}") for number in range(57)]
    assert len(_holdout(tmp_path, pairs, 1000, "a")[1]) == 5
    assert len(_holdout(tmp_path, pairs, 3, "b")[1]) == 3
    assert len(_holdout(tmp_path, pairs[:2], 1000, "c")[1]) == 1


def test_equal_sources_stay_together_and_the_place_does_not_matter(tmp_path: Path) -> None:
    pairs = [(f"source {number // 3}", f"target {number}") for number in range(300)]
    train, dev = _holdout(tmp_path, pairs, 30, "a")
    assert len(dev) == 30
    assert not {pairs[row][0] for row in train} & {pairs[row][0] for row in dev}
    _, turned = _holdout(tmp_path, pairs[::-1], 30, "b")
    assert {pairs[::-1][row] for row in turned} == {pairs[row] for row in dev}


def test_a_source_with_very_many_translations_does_not_fill_dev(tmp_path: Path) -> None:
    for number in range(5):
        pairs = [(f"frequent {number}", str(count)) for count in range(90)]
        pairs += [(f"rare {count}", "x") for count in range(10)]
        train, dev = _holdout(tmp_path, pairs, 1000, f"a{number}")
        assert len(dev) == 10
        assert set(range(90)) <= set(train)
    # Where every source text has too many, the rarest one is taken, whatever its hash.
    for number in range(5):
        pairs = [(f"{number} {count % 2}", str(count)) for count in range(41)]
        _, dev = _holdout(tmp_path, pairs, 1000, f"b{number}")
        assert {pairs[row][0] for row in dev} == {f"{number} 1"}


def test_one_source_text_alone_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two different source texts are needed"):
        _holdout(tmp_path, [("a", "b"), ("a", "c")], 10, "a")
