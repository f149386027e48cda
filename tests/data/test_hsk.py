from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid.config import CorpusConfig
from pellucid.data import hsk as module
from pellucid.data.corpus import read_pairs
from pellucid.data.hsk import HskData, clean_gloss, fault, load_hsk, prepare_hsk, write_hsk
from pellucid.errors import DataError, MissingExtraError


def _row(chinese: str, english: str, *tokens: tuple[str, str]) -> dict[str, Any]:
    return {
        "chinese": chinese,
        "translation": {"en": english},
        "tokens": [{"word": word, "gloss_en": gloss} for word, gloss in tokens],
    }


def _rows(count: int) -> list[dict[str, Any]]:
    digits = "零一二三四五六七八九"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return [
        _row("数" + "".join(digits[int(d)] for d in f"{n:03}") + "。", " ".join(words[int(d)] for d in f"{n:03}") + ".")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data() -> HskData:
    return load_hsk()


@pytest.mark.parametrize(
    ("chinese", "english", "expected"),
    [
        ("我爱中国。", "I love China.", None),
        ("他叹了一口气。", "He sighed.", None),
        ("救命啊！", "Help!", None),
        ("这里要拆迁。", "This place will be demolished and relocated.", None),
        ("怎么了？", "What's wrong?", None),
        ("", "I love China.", "empty"),
        ("我爱中国。", "...", "empty"),
        ("政府发布了通知。", "placeholder", "stand-in"),
        ("政府发布了通知。", "placeholder-p12", "stand-in"),
        ("政府发布了通知。", "Placeholder.", "stand-in"),
        ("他远远超过了别人。", "PH", "stand-in"),
        ("他远远超过了别人。", "TODO", "stand-in"),
        ("电话。", "Phone.", None),
        ("照片。", "Photos.", None),
        ("用占位符。", "Use a placeholder.", None),
        ("考试近了。", "The exam is近; prepare well.", "untranslated"),
        ("I love China.", "I love China.", "wrong script"),
        ("我爱China。", "I love China.", "wrong script"),
        ("我爱中国。", "I love China", "not a sentence"),
        ("我爱中国", "I love China.", "not a sentence"),
        ("他说：“好。”", 'He says, "Good."', None),
        ("你爱中国吗？", "You love China.", "question or not"),
        ("我爱中国。", "Do I love China?", "question or not"),
        ("我爱中国人民。", "I go.", "length"),
        ("好。", "This is very good.", "length"),
        ("我爱中国人。", "Go on.", None),
    ],
)
def test_faults(chinese: str, english: str, expected: str | None) -> None:
    assert fault(chinese, english) == expected


def test_the_package_as_it_is(data: HskData) -> None:
    assert data.dropped == {"stand-in": 82, "untranslated": 2, "repeated": 5}
    assert (len(data.train), len(data.dev), len(data.test)) == (3865, 200, 200)
    assert len(data.train) + len(data.dev) + len(data.test) + sum(data.dropped.values()) == 4354
    assert all(
        "placeholder" not in english.lower() for part in (data.train, data.dev, data.test) for _, english in part
    )


def test_no_text_of_either_side_is_in_two_parts_not_even_with_other_punctuation(data: HskData) -> None:
    for side in (0, 1):
        parts = [
            {"".join(c for c in pair[side].casefold() if c.isalnum()) for pair in part}
            for part in (data.train, data.dev, data.test)
        ]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
    chinese = [pair[0] for part in (data.train, data.dev, data.test) for pair in part]
    assert len(chinese) == len(set(chinese))


def test_the_demo_sentence_is_not_in_the_data(data: HskData) -> None:
    assert all("我爱中国" not in chinese for part in (data.train, data.dev, data.test) for chinese, _ in part)


def test_glosses_come_from_training_sentences_and_are_no_held_out_text(data: HskData) -> None:
    glosses = dict(data.glosses)
    assert len(glosses) == len(data.glosses) == 4521
    assert glosses["老师"] == "teacher"
    assert glosses["高兴"] == "happy"
    held = {text for part in (data.dev, data.test) for pair in part for text in pair}
    held |= {text.strip("。！？.!?") for text in held}
    assert not held & {text for pair in data.glosses for text in pair}
    train = "".join(chinese for chinese, _ in data.train)
    assert all(word in train for word in glosses)
    assert all(not set(gloss) & set("();[]/") and 1 <= len(gloss.split()) <= 4 for gloss in glosses.values())


@pytest.mark.parametrize(
    ("word", "gloss", "expected"),
    [
        ("老师", "teacher", "teacher"),
        ("您", "you (courteous, as opposed to informal 你[ni3])", "you"),
        ("认识", "to know; to recognize", "to know"),
        ("疼", "(it) hurts; sore", "hurts"),
        ("分之", "(indicating a fraction)", None),
        ("迟", "surname Chi", None),
        ("姓", "surname Xing; family name", "family name"),
        ("比", "Belgium; Belgian", None),
        ("我", "I; me", "I"),
        ("中国", "China", "China"),
        ("诗", "abbr. for Shijing 詩經|诗经[Shi1 jing1], the Book of Songs", None),
        ("加速", "to increase the speed of sth; to accelerate", "to accelerate"),
        ("出行", "to go out somewhere (relatively short trip); to set off", "to go out somewhere"),
        ("分辨", "to tell one from the other; to discern", "to discern"),
        ("怎么", "how?; what?", None),
        ("一", "1; one", "one"),
        ("空", "", None),
        ("空", None, None),
        ("吗", "(final (question) particle)", None),
    ],
)
def test_clean_gloss(word: str, gloss: str | None, expected: str | None) -> None:
    assert clean_gloss(word, gloss) == expected


def test_sentences_that_share_a_text_stay_in_one_part() -> None:
    rows = _rows(400)
    # A chain: each shares its Chinese or its English with the next, up to punctuation.
    chain = [
        _row("我来了。", "I am coming."),
        _row("我来。", "I am coming!"),
        _row("来了。", "I am coming."),
        _row("我，来了！", "Here I am!"),
    ]
    for place in (0, 200, 400):
        data = prepare_hsk([*rows[:place], *chain, *rows[place:]], held_out=40)
        parts = [name for name in ("train", "dev", "test") for _, english in getattr(data, name) if "coming" in english]
        assert len(parts) == 3
        assert len(set(parts)) == 1
        assert data.dropped == {"repeated": 1}


def test_the_part_of_a_sentence_does_not_depend_on_its_place() -> None:
    rows = _rows(300)
    first, turned = prepare_hsk(rows, held_out=30), prepare_hsk(rows[::-1], held_out=30)
    assert (first.dev, first.test) == (turned.dev, turned.test)
    assert (len(first.train), len(first.dev), len(first.test)) == (240, 30, 30)
    assert sorted(first.train) == sorted(turned.train)


def test_the_first_translation_of_a_repeated_sentence_stays() -> None:
    rows = [*_rows(300), _row("这条路不通。", "This road is closed."), _row("这条路不通！", "This road is blocked!")]
    data = prepare_hsk(rows, held_out=30)
    pairs = [*data.train, *data.dev, *data.test]
    assert ("这条路不通。", "This road is closed.") in pairs
    assert len(pairs) == 301


def test_glosses_of_held_out_sentences_are_left_out() -> None:
    rows = [_row(row["chinese"], row["translation"]["en"], (f"词{n}", "word")) for n, row in enumerate(_rows(300))]
    data = prepare_hsk(rows, held_out=30)
    train = {chinese for chinese, _ in data.train}
    expected = [(f"词{n}", "word") for n, row in enumerate(rows) if row["chinese"] in train]
    assert data.glosses == expected


def test_the_first_gloss_of_a_word_stays_and_none_is_a_held_out_text() -> None:
    held = prepare_hsk(_rows(300), held_out=30)
    chinese, english = held.dev[0][0].rstrip("。"), held.test[0][1].rstrip(".").replace("-", " ")
    tokens = [("喊", "to shout"), ("喊", "to yell"), (chinese, "number"), ("数", english), ("abc", "letters")]
    rows = [_row(row["chinese"], row["translation"]["en"], *tokens) for row in _rows(300)]
    data = prepare_hsk(rows, held_out=30)
    assert (data.dev, data.test) == (held.dev, held.test)
    assert data.glosses == [("喊", "to shout")]


def test_other_rows_and_too_few_are_errors() -> None:
    with pytest.raises(DataError, match=r"another form than version 1\.0: install"):
        prepare_hsk([{"chinese": "我"}])
    with pytest.raises(DataError, match=r"^only 300 usable sentences are left, too few to set 400 aside$"):
        prepare_hsk(_rows(300))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hsk_sentences_audio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[demo\]'"):
        load_hsk()


def test_the_written_files_are_corpora(data: HskData, tmp_path: Path) -> None:
    assert write_hsk(tmp_path / "a" / "b", data=data) is data
    for name in ("train", "dev", "test"):
        read = read_pairs(CorpusConfig(path=f"{name}.tsv"), tmp_path / "a" / "b")
        assert [(pair.source, pair.target) for pair in read] == getattr(data, name)
    readme = (tmp_path / "a" / "b" / "README.md").read_text(encoding="utf-8")
    for part in (
        "CC BY-SA 4.0",
        "hsk-sentences-audio contributors",
        "CC-CEDICT",
        "3,865 sentences\n",
        "- stand-in: 82",
    ):
        assert part in readme
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "README.md",
        "dev.tsv",
        "test.tsv",
        "train.tsv",
    ]


def test_glosses_are_appended_to_the_training_pairs_on_request(data: HskData, tmp_path: Path) -> None:
    write_hsk(tmp_path, glosses=True, data=data)
    read = [(pair.source, pair.target) for pair in read_pairs(CorpusConfig(path="train.tsv"), tmp_path)]
    assert read == [*data.train, *data.glosses]
    assert "3,865 sentences and 4,521 words with a gloss" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_an_interrupted_first_write_leaves_no_folder(
    data: HskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module.write_text

    def interrupted(path: Path, text: str) -> None:
        if path.name == "test.tsv":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(module, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_hsk(tmp_path / "run" / "data", data=data)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_else_is_in_the_folder_stays(data: HskData, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    write_hsk(tmp_path, data=data)
    assert (tmp_path / "mine").read_text() == "x"
