"""Several corpora as one: how much of each an epoch has, in what order, and that nothing is lost over epochs."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from pathlib import Path

import data_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.config import TokenizerConfig
from pellucid.data.batches import BatchStream
from pellucid.data.corpus import Pair
from pellucid.data.dataset import TokenDataset, open_texts, open_tokens
from pellucid.data.mixture import Mixture, mixture_table, shares
from pellucid.data.report import CorpusReport
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import train_tokenizers

TAGS = ("<big>", "<small>")
TOKENIZER = train_tokenizers(TokenizerConfig(vocab_size=400), data_cases.sentence_pairs(90), TAGS)[0]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenDataset]:
    """90 pairs and 10 others."""
    folder = tmp_path_factory.mktemp("corpora")
    return {
        name: _dataset(folder / name, data_cases.sentence_pairs(count, start), tag)
        for name, count, start, tag in (("big", 90, 0, "<big>"), ("small", 10, 300, "<small>"))
    }


def _dataset(folder: Path, pairs: list[tuple[str, str]], tag: str) -> TokenDataset:
    read = [Pair(source, target, line) for line, (source, target) in enumerate(pairs, start=1)]
    report = CorpusReport(folder.name, len(read), place=f"{folder.name}.tsv")
    texts = open_texts(folder / "texts", "k", lambda: read, report)
    limits = (256, 256, 9.0)
    return open_tokens(folder / "tokens", texts, range(len(read)), (TOKENIZER, TOKENIZER), limits, report, tag=tag)


# --- shares -------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_the_formula() -> None:
    assert shares([900, 100], [1.0, 1.0], 1.0) == [Fraction(9, 10), Fraction(1, 10)]
    assert shares([900, 100], [1.0, 9.0], 1.0) == [Fraction(1, 2), Fraction(1, 2)]
    # √900 : √100 = 30 : 10
    assert [float(share) for share in shares([900, 100], [1.0, 1.0], 2.0)] == pytest.approx([0.75, 0.25])
    # 10^6 and 10^3 at T = 5, worked out by hand: 10^(6/5) = 15.8489, 10^(3/5) = 3.9811
    assert float(shares([10**6, 10**3], [1.0, 1.0], 5.0)[0]) == pytest.approx(15.8489 / (15.8489 + 3.9811), abs=1e-5)
    assert [float(s) for s in shares([10**6, 10], [1.0, 1.0], 1000.0)] == pytest.approx([0.5, 0.5], abs=0.003)


def test_at_temperature_one_an_epoch_has_every_pair_once(parts: dict[str, TokenDataset]) -> None:
    mixture = Mixture(parts, [1.0, 1.0], 1.0)
    for epoch in range(4):
        assert mixture.counts(epoch) == [90, 10]
        assert sorted(mixture.rows_of_epoch(7, epoch).tolist()) == list(range(100))


def test_an_epoch_has_as_many_pairs_of_each_as_the_formula_says(parts: dict[str, TokenDataset]) -> None:
    mixture = Mixture(parts, [1.0, 1.0], 2.0)  # √90 : √10 = 3 : 1
    assert [mixture.counts(epoch) for epoch in range(3)] == [[75, 25], [75, 25], [75, 25]]
    rows = mixture.rows_of_epoch(1, 0)
    assert Counter(row >= 90 for row in rows.tolist()) == {False: 75, True: 25}
    even = Mixture(parts, [1.0, 3.0], 2.0)
    assert even.counts(0) == [50, 50]


@given(
    sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=6),
    temperature=st.floats(1.0, 1000.0),
    weights=st.lists(st.floats(0.01, 100.0), min_size=6, max_size=6),
)
def test_shares_add_up_and_a_weight_or_more_pairs_never_give_less(
    sizes: list[int], temperature: float, weights: list[float]
) -> None:
    found = shares(sizes, weights[: len(sizes)], temperature)
    assert sum(found) == 1 and all(share > 0 for share in found)
    more = shares(sizes, [2 * weights[0], *weights[1 : len(sizes)]], temperature)
    assert more[0] >= found[0]


# --- the walk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.5, 5.0, 1000.0])
def test_over_epochs_nothing_is_lost_and_nothing_comes_again_before_all_others(
    parts: dict[str, TokenDataset], temperature: float
) -> None:
    mixture = Mixture(parts, [1.0, 1.0], temperature)
    epochs = 30
    rows = [mixture.rows_of_epoch(3, epoch) for epoch in range(epochs)]
    for first, size, number in ((0, 90, 0), (90, 10, 1)):
        walked = [row - first for epoch in rows for row in epoch.tolist() if first <= row < first + size]
        assert abs(len(walked) - epochs * 100 * float(mixture.shares[number])) < 1
        laps = [walked[start : start + size] for start in range(0, len(walked), size)]
        assert len(laps) >= 15
        for lap in laps[:-1]:
            assert sorted(lap) == list(range(size))
        assert laps[0] != laps[1] != laps[2]


def test_an_epoch_depends_on_seed_and_number_alone(parts: dict[str, TokenDataset]) -> None:
    one, other = Mixture(parts, [1.0, 1.0], 5.0), Mixture(parts, [1.0, 1.0], 5.0)
    for epoch in range(5):
        one.rows_of_epoch(1, epoch)
    assert one.rows_of_epoch(1, 3).tolist() == other.rows_of_epoch(1, 3).tolist()
    assert one.rows_of_epoch(1, 3).tolist() != one.rows_of_epoch(2, 3).tolist()


def test_an_epoch_of_a_corpus_may_be_less_than_a_pair(parts: dict[str, TokenDataset]) -> None:
    mixture = Mixture(parts, [1e6, 1.0], 1.0)
    assert mixture.counts(0) == [100, 0]
    assert len(mixture.rows_of_epoch(1, 0)) == 100


# --- as a data set ------------------------------------------------------------------------------------------------


def test_a_pair_is_found_in_its_corpus(parts: dict[str, TokenDataset]) -> None:
    mixture = Mixture(parts, [1.0, 1.0], 5.0)
    big, small = parts.values()
    assert len(mixture) == 100
    for index, part, place in ((0, big, 0), (89, big, 89), (90, small, 0), (99, small, 9)):
        assert mixture.source_text(index) == part.source_text(place)
        assert mixture.target_text(index) == part.target_text(place)
        assert mixture.read_pair(index) == part.read_pair(place)
        assert mixture.source(index).tolist() == part.source(place).tolist()
        assert mixture.target(index).tolist() == part.target(place).tolist()
        assert mixture.source_lengths[index] == len(part.source(place))
        assert mixture.target_lengths[index] == len(part.target(place))
        assert (mixture.line(index), mixture.tag_of(index)) == (place + 1, part.tag)
    assert mixture.place(95) == "small.tsv, line 6"
    for index in (-1, 100):
        with pytest.raises(IndexError):
            mixture.source(index)
    assert mixture.key != Mixture(dict(reversed(parts.items())), [1.0, 1.0], 5.0).key


def test_the_tag_is_one_token_in_front_of_every_source_and_no_target(parts: dict[str, TokenDataset]) -> None:
    big, small = parts.values()
    for part, tag in ((big, "<big>"), (small, "<small>")):
        for index in range(len(part)):
            assert TOKENIZER.pieces(part.source(index).tolist())[0] == tag
            assert part.source(index).tolist()[1:] == TOKENIZER.encode(part.source_text(index))
            assert part.target(index).tolist() == TOKENIZER.encode(part.target_text(index))


def test_tags_that_others_have_change_no_token(parts: dict[str, TokenDataset], tmp_path: Path) -> None:
    texts, report = parts["big"].texts, CorpusReport("big", 90)
    given = range(90), (TOKENIZER, TOKENIZER), (256, 256, 9.0), report, None
    keys = [
        open_tokens(tmp_path / "tokens", texts, *given, TextRules(tags=tags), tag).key
        for tags, tag in (((), ""), (TAGS, ""), (TAGS, "<big>"), (TAGS[:1], "<big>"))
    ]
    assert keys[0] == keys[1] != keys[2] == keys[3]


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_batches_start_anywhere_and_keep_their_tags(parts: dict[str, TokenDataset], alpha: float) -> None:
    mixture = Mixture(parts, [1.0, 1.0], 5.0)

    def stream(epoch: int = 0, batch: int = 0) -> BatchStream:
        return BatchStream(
            mixture,
            batch_tokens=256,
            seed=5,
            epoch=epoch,
            batch=batch,
            sampling_alpha=alpha,
            drop_final_punctuation=0.5,
            source_tokenizer=TOKENIZER,
            target_tokenizer=TOKENIZER,
        )

    undisturbed = list(itertools.islice(stream(), 60))
    assert undisturbed[-1][0] >= 2
    for epoch, number, batch in undisturbed:
        for row, index in enumerate(batch.indices):
            assert TOKENIZER.pieces([int(batch.source[row, 0])]) == [mixture.tag_of(index)]
        ((_, _, again),) = itertools.islice(stream(epoch, number), 1)
        assert again.indices == batch.indices
        assert again.source.equal(batch.source) and again.target_out.equal(batch.target_out)
    first = [index for epoch, _, batch in undisturbed for index in batch.indices if epoch == 0]
    assert sorted(first) == sorted(mixture.rows_of_epoch(5, 0).tolist())


@settings(max_examples=20)
@given(epoch=st.integers(0, 50), seed=st.integers(0, 100))
def test_no_epoch_strays_from_the_formula_by_a_whole_pair(
    parts: dict[str, TokenDataset], epoch: int, seed: int
) -> None:
    mixture = Mixture(parts, [1.0, 1.7], 3.0)
    counts = np.bincount(mixture.rows_of_epoch(seed, epoch) >= 90, minlength=2)
    for count, share in zip(counts.tolist(), mixture.shares, strict=True):
        assert abs(count - 100 * float(share)) < 1


def test_the_table_says_what_an_epoch_has(parts: dict[str, TokenDataset]) -> None:
    assert mixture_table(Mixture(parts, [1.0, 1.0], 2.0)) == [
        "corpus  read  kept  share  pairs of an epoch  tag",
        "big     90    90    75.0%  75 (0.83 × kept)   <big>",
        "small   10    10    25.0%  25 (2.50 × kept)   <small>",
        "an epoch has 100 pairs, as many as all corpora have together",
    ]
