"""Metrics of text: known values, signatures, tokenisers, two systems, bad input."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from pellucid.errors import ConfigError, DataError
from pellucid.evaluation import (
    METRICS,
    Scores,
    bleu_tokenizer,
    compare,
    evaluate,
    higher_is_better,
    metric_value,
)

REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first, really."]
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]


def test_perfect_output() -> None:
    scores = evaluate(REFERENCES, REFERENCES, METRICS)
    assert scores.bleu == pytest.approx(100) and scores.chrf == pytest.approx(100)
    assert (scores.wer, scores.ser, scores.per, scores.lines) == (0.0, 0.0, 0.0, 3)


def test_bleu_and_chrf_are_sacrebleus_with_their_signatures() -> None:
    scores = evaluate(HYPOTHESES, REFERENCES)
    assert scores.bleu == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scores.chrf == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert 20 < scores.bleu < 60 and 20 < scores.chrf < 80
    version = sacrebleu.__version__
    assert scores.bleu_signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert scores.chrf_signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    assert scores.wer is None and scores.ser is None


def test_bleu_by_hand() -> None:
    # Precisions 5/5, 3/4, 1/3, 0/2 (smoothed to 1/4); no brevity penalty.
    expected = 100 * (1 * 3 / 4 * 1 / 3 * 1 / 4) ** (1 / 4)
    assert metric_value("bleu", ["a b d d e"], ["a b d e d"]) == pytest.approx(expected)


def test_case_counts() -> None:
    assert metric_value("bleu", [line.lower() for line in REFERENCES], REFERENCES) < 99


@pytest.mark.parametrize(
    ("hypotheses", "references", "wer", "ser"),
    [
        (["a b c"], ["a b c"], 0, 0),
        (["a x c"], ["a b c"], 100 / 3, 100),
        (["a c"], ["a b c"], 100 / 3, 100),
        (["a b c d"], ["a b c"], 100 / 3, 100),
        (["b a"], ["a b"], 100, 100),
        ([""], ["a b c d"], 100, 100),
        (["a b c"], ["x"], 300, 100),
        (["a", "b c"], ["a", "b d e"], 50, 50),
        (["", "a"], ["", "a"], 0, 0),
        (["x", "a"], ["", "a"], 100, 50),
        (["  a  b "], ["a b"], 0, 0),  # white space separates tokens and is nothing else
        (["t͡ʃ a"], ["t ʃ a"], 200 / 3, 100),
    ],
)
def test_error_rates(hypotheses: list[str], references: list[str], wer: float, ser: float) -> None:
    scores = evaluate(hypotheses, references, ["wer", "ser"])
    assert (scores.wer, scores.ser) == (pytest.approx(wer), pytest.approx(ser))
    assert scores == Scores(len(references), wer=scores.per, ser=scores.ser)


words = st.lists(st.sampled_from("abc"), max_size=6)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_edit_distance_is_the_textbooks(pairs: list[tuple[list[str], list[str]]]) -> None:
    def distance(first: list[str], second: list[str]) -> int:
        row = list(range(len(second) + 1))
        for i, a in enumerate(first, 1):
            previous, row[0] = row[0], i
            for j, b in enumerate(second, 1):
                previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
        return row[-1]

    hypotheses, references = ([" ".join(pair[side]) for pair in pairs] for side in (0, 1))
    tokens = sum(len(reference) for _, reference in pairs)
    if tokens:
        expected = 100 * sum(distance(*pair) for pair in pairs) / tokens
        assert metric_value("wer", hypotheses, references) == pytest.approx(expected)
    assert metric_value("ser", hypotheses, references) == pytest.approx(
        100 * sum(h != r for h, r in pairs) / len(pairs)
    )


@pytest.mark.parametrize("name", METRICS)
def test_metric_value_is_what_evaluate_says(name: str) -> None:
    value = metric_value(name, HYPOTHESES, REFERENCES)
    assert value == getattr(evaluate(HYPOTHESES, REFERENCES, [name]), name)
    worse = metric_value(name, ["x"] * 3, REFERENCES)
    assert higher_is_better(name) == (value > worse)


def test_directions() -> None:
    assert {name: higher_is_better(name) for name in (*METRICS, "loss")} == dict(
        bleu=True, chrf=True, wer=False, ser=False, loss=False
    )
    with pytest.raises(ConfigError, match=r"unknown metric 'meteor': choose loss, bleu"):
        higher_is_better("meteor")


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["The cat sat."], "13a"),
        (["我爱中国。"], "zh"),
        (["我有一台 iPad。", "他住在上海"], "zh"),
        (["He said 你好 to everyone."], "13a"),
        (["私は日本語を勉強しています。"], "char"),
        (["東京都知事選挙の投票率"], "zh"),  # hardly any kana: Chinese characters decide
        (["한국어 문장입니다."], "13a"),
        (["𠀀𠀁𠀂"], "zh"),
        (["", "123 …"], "13a"),
    ],
)
def test_the_bleu_tokeniser_follows_the_references(references: list[str], expected: str) -> None:
    assert bleu_tokenizer(references) == expected
    assert f"|tok:{expected}|" in str(evaluate(references, references, ["bleu"]).bleu_signature)


def test_chinese_is_compared_by_characters() -> None:
    hypotheses, references = ["他昨天去了上海的一所学校。"], ["他今天去了上海的一所学校。"]
    assert metric_value("bleu", hypotheses, references) > 70
    assert metric_value("bleu", hypotheses, references, bleu_tokenize="13a") < 1
    assert "tok:intl" in str(evaluate(hypotheses, references, bleu_tokenize="intl").bleu_signature)


def test_a_tokeniser_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(ConfigError, match=r"ja-mecab needs MeCab: pip install 'sacrebleu\[ja\]'"):
        evaluate(["猫"], ["猫"], ["bleu"], bleu_tokenize="ja-mecab")


def test_a_clearly_better_system_is_significant_and_the_same_one_is_not() -> None:
    references = [f"the {word} number {i} stands near a house" for i, word in enumerate(["cat", "dog", "cow"] * 20)]
    worse = [line.replace("stands near", "is at") if i % 2 else line for i, line in enumerate(references)]
    results = compare(worse, references, references, samples=200)
    assert list(results) == ["bleu", "chrf"]
    for name, result in results.items():
        assert result.baseline == pytest.approx(metric_value(name, worse, references))
        assert result.system == pytest.approx(100)
        assert result.p_value < 0.01 and 0 < result.baseline_interval < 20
        assert "bs:200" in result.signature and "seed:12345" in result.signature
    assert compare(worse, references, references, samples=200) == results
    same = compare(worse, list(worse), references, ["bleu"], samples=200)["bleu"]
    assert same.p_value == 1 and same.baseline == same.system


def test_bad_input() -> None:
    with pytest.raises(DataError, match="2 hypotheses and 1 references"):
        evaluate(["a", "b"], ["a"])
    with pytest.raises(DataError, match="2 hypotheses and 3 references"):
        compare(REFERENCES, HYPOTHESES[:2], REFERENCES)
    with pytest.raises(DataError, match="no lines"):
        metric_value("ser", [], [])
    with pytest.raises(DataError, match="all references are blank"):
        metric_value("wer", ["a"], [" "])
    with pytest.raises(DataError, match="a list of lines"):
        evaluate("a b", "a b")
    with pytest.raises(ConfigError, match="unknown metric of text 'loss': choose bleu, chrf, wer, ser"):
        metric_value("loss", ["a"], ["a"])
    with pytest.raises(ConfigError, match="unknown metric of text 'ter'"):
        evaluate(["a"], ["a"], ["ter"])
    with pytest.raises(ConfigError, match="bleu_tokenize = 'moses': choose one of auto, 13a, zh"):
        evaluate(["a"], ["a"], bleu_tokenize="moses")
    with pytest.raises(ConfigError, match="no bootstrap for metric 'wer'"):
        compare(["a"], ["a"], ["a"], ["wer"])
    with pytest.raises(ConfigError, match="at least 1"):
        compare(["a"], ["a"], ["a"], samples=0)


def test_nothing_is_printed_and_torch_is_not_imported() -> None:
    program = (
        "import sys; from pellucid.evaluation import evaluate; "
        "lines = ['it is tokenised .'] * 120; evaluate(lines, lines); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
