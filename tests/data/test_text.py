from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.config import TokenizerConfig
from pellucid.data import chinese
from pellucid.data.text import SLOTS, TextRules, Written, describe_faults, markers
from pellucid.data.tokenizer import train_tokenizer
from pellucid.errors import MissingExtraError, TokenizerError

ALL = TextRules(placeholders=("url", "email", "number"))
URL, EMAIL, NUMBER = (markers([kind]) for kind in ("url", "email", "number"))


# --- without rules ------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_no_rules_change_nothing(source: str, target: str) -> None:
    rules = TextRules()
    assert not rules
    assert rules.read_source(source) == source
    assert rules.read_target(target, source) == target
    assert rules.read_pair(source, target) == (source, target)
    assert rules.write(target, source) == Written(target)


# --- Chinese script -----------------------------------------------------------------------------------------------


def test_both_scripts_become_the_same_text() -> None:
    rules = TextRules(source_script="simplified")
    assert rules
    for simplified, traditional in (("我爱中国。", "我愛中國。"), ("头发发展", "頭髮發展"), ("Tom 3", "Tom 3")):
        assert rules.read_source(traditional) == rules.read_source(simplified) == simplified
        assert rules.read_pair(traditional, traditional) == (simplified, traditional)
        assert rules.write(traditional, traditional).text == traditional


def test_each_side_has_its_own_script() -> None:
    rules = TextRules(source_script="simplified", target_script="traditional")
    assert rules.read_pair("頭髮", "头发") == ("头发", "頭髮")
    assert rules.read_target("头发", "x") == "頭髮"


def test_without_opencc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._opencc.cache_clear()
    assert TextRules(source_script="simplified").read_source("頭髮") == "头发"  # not needed, not missed
    with pytest.raises(MissingExtraError) as caught:
        TextRules(target_script="traditional")
    assert str(caught.value) == (
        "writing Chinese in traditional script needs an optional dependency: pip install 'pellucid[chinese]'"
    )
    chinese._opencc.cache_clear()


# --- placeholders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see https://example.com/a?b=1.", f"see {URL[0]}."),
        ("请看https://example.com/a，谢谢", f"请看{URL[0]}，谢谢"),
        ("(www.example.org/x_(y))", f"({URL[0]}))"),
        ("write to a.b+c@d-e.co.uk!", f"write to {EMAIL[0]}!"),
        ("mailto:x@y.de, ftp://x@y.de/z", f"mailto:{EMAIL[0]}, {URL[0]}"),
        ("我有3只猫和12只狗。", f"我有{NUMBER[0]}只猫和{NUMBER[1]}只狗。"),
        ("1,234.56 at 10:30 on 2026-11-22", f"{NUMBER[0]} at {NUMBER[1]} on {NUMBER[2]}"),
        ("-5 °C, 50%, $3.", f"-{NUMBER[0]} °C, {NUMBER[1]}%, ${NUMBER[2]}."),
        ("B2B, 3D, utf8, x1y, Ü3, 1.2a", "B2B, 3D, utf8, x1y, Ü3, 1.2a"),
        ("１２个", f"{NUMBER[0]}个"),
        ("@ a@b http:// www. . , :", "@ a@b http:// www. . , :"),
    ],
)
def test_what_is_replaced(text: str, masked: str) -> None:
    assert ALL.read_source(text) == masked
    assert ALL.write(masked, text) == Written(text)


def test_only_the_kinds_that_are_asked_for() -> None:
    text = "3 mails to a@b.org"
    assert TextRules(placeholders=("email",)).read_source(text) == f"3 mails to {EMAIL[0]}"
    assert TextRules(placeholders=("number",)).read_source(text) == f"{NUMBER[0]} mails to a@b.org"


def test_after_the_last_placeholder_the_rest_stays() -> None:
    text = " ".join(str(n) for n in range(SLOTS + 2))
    masked = ALL.read_source(text)
    assert masked == " ".join([*NUMBER, str(SLOTS), str(SLOTS + 1)])
    assert ALL.write(masked, text).text == text


def test_in_training_both_sides_must_have_the_part() -> None:
    assert ALL.read_pair("3 cats, 2 dogs", "trois chats, 2 chiens") == (
        f"3 cats, {NUMBER[0]} dogs",
        f"trois chats, {NUMBER[0]} chiens",
    )
    # The order of the target may be another; equal parts go first to first.
    assert ALL.read_pair("1 a 2 b 1", "2 x 1 y 1") == (
        f"{NUMBER[0]} a {NUMBER[1]} b {NUMBER[2]}",
        f"{NUMBER[1]} x {NUMBER[0]} y {NUMBER[2]}",
    )
    assert ALL.read_pair("7 7 7", "7") == (f"{NUMBER[0]} 7 7", NUMBER[0])
    assert ALL.read_pair("1,000", "1.000") == ("1,000", "1.000")


def test_a_given_target_is_read_as_the_model_would_write_it() -> None:
    source = "3 cats and 2 dogs"
    assert ALL.read_target("2 Hunde, drei Katzen, 9", source) == f"{NUMBER[1]} Hunde, drei Katzen, 9"
    assert ALL.write(ALL.read_target("2 und 3", source), source).text == "2 und 3"


def test_what_the_model_does_to_placeholders_is_counted() -> None:
    source = "3 cats, 2 dogs"
    assert ALL.write(f"{NUMBER[1]} x", source) == Written("2 x", missing=1)
    assert ALL.write(f"{NUMBER[0]} {NUMBER[0]} {NUMBER[1]}", source) == Written("3 3 2", repeated=1)
    assert ALL.write(f"{NUMBER[0]} {NUMBER[1]} {NUMBER[2]}{URL[0]}", source) == Written("3 2 ", unmatched=2)
    assert ALL.write("", source).faults() == {"missing": 2}
    assert ALL.write(f"{NUMBER[1]} {NUMBER[0]}", source).faults() == {}


def test_the_counts_of_many_texts_are_a_sentence() -> None:
    assert describe_faults({}) == describe_faults({"missing": 0}) == ""
    assert describe_faults({"unmatched": 2, "missing": 1234}) == (
        "placeholders (tokenizer.placeholders): 1,234 left out, 2 made up by the model"
    )


def test_a_text_that_holds_a_placeholder_itself_comes_back() -> None:
    text = f"3 {NUMBER[0]} {URL[2]} x"
    masked = ALL.read_source(text)
    assert masked == f"{NUMBER[0]} {URL[0]} {URL[1]} x"
    assert ALL.write(masked, text) == Written(text)


@given(st.text(alphabet="ab12.,:/-@w我 %"), st.text(alphabet="b12.@w我 "))
def test_what_was_read_is_written_back(source: str, target: str) -> None:
    assert ALL.write(ALL.read_source(source), source) == Written(source)
    assert ALL.write(ALL.read_target(target, source), source).text == target
    read = ALL.read_pair(source, target)
    assert len(set(NUMBER + EMAIL) & set(read[0])) == len(set(NUMBER + EMAIL) & set(read[1]))
    assert sorted(set(read[0]) - set(source)) == sorted(set(read[1]) - set(target))


@pytest.mark.parametrize("part", ["a", "1.", "1", "a@", "www.", "https://.", "a.b-", "1a"])
def test_a_huge_line_takes_time_in_proportion(part: str) -> None:
    def seconds(length: int) -> float:
        text = part * (length // len(part))
        start = time.perf_counter()
        ALL.read_source(text)
        return time.perf_counter() - start

    seconds(1000)
    assert seconds(400_000) < 2.0  # quadratic: minutes


def test_the_vocabulary_keeps_placeholders_whole() -> None:
    config = TokenizerConfig(vocab_size=400, placeholders=("url", "number"))
    texts = [f"pay {NUMBER[0]} at {URL[0]}, not {NUMBER[1]}%", "the cat sees the dog here"] * 20
    for kind, normalization in (("unigram", "nmt_nfkc"), ("bpe", "nfkc_cf"), ("unigram", "identity")):
        given = config.model_copy(update={"model": kind, "normalization": normalization})
        tokenizer = train_tokenizer(given, "sentencepiece", texts)
        text = f"the {NUMBER[3]}{URL[4]} cat, {NUMBER[0]}"
        pieces = tokenizer.pieces(tokenizer.encode(text))
        assert [piece for piece in pieces if piece in NUMBER + URL] == [NUMBER[3], URL[4], NUMBER[0]]
        assert tokenizer.decode(tokenizer.encode(text)) == text


# --- stored -------------------------------------------------------------------------------------------------------


def test_rules_are_stored_as_json() -> None:
    rules = TextRules("simplified", "none", ("number", "url"))
    assert TextRules.from_json(rules.to_json()) == rules
    assert rules.to_json()["format"] == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "of format 1 or 2: a newer pellucid"),
        ({**TextRules().to_json(), "format": 3}, "of format 1 or 2: a newer pellucid"),
        ({"format": 1}, "incomplete or damaged"),
        ({**TextRules().to_json(), "placeholders": ["name"]}, "incomplete or damaged"),
        ({**TextRules().to_json(), "source_script": "latin"}, "incomplete or damaged"),
    ],
)
def test_rules_that_are_none_are_refused(value: object, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        TextRules.from_json(value)
