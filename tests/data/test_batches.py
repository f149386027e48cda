from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import data_cases
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.config import TokenizerConfig
from pellucid.data.batches import Batch, BatchStream, collate, padded_length, plan_epoch
from pellucid.data.corpus import Pair
from pellucid.data.dataset import TokenDataset, open_texts, open_tokens
from pellucid.data.punctuation import without_final_punctuation
from pellucid.data.report import CorpusReport
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import train_tokenizers
from pellucid.data.tokenizer_kinds import SentencePieceTokenizer, Tokenizer

PAIRS = data_cases.sentence_pairs(90)
TOKENIZER = train_tokenizers(TokenizerConfig(vocab_size=400), PAIRS)[0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return _dataset(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def punctuated(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return _dataset(tmp_path_factory.mktemp("cache"), pairs=[(f"{x}.", f"{y}!") for x, y in PAIRS[:-9]] + PAIRS[-9:])


def _dataset(
    folder: Path,
    limits: tuple[int, int, float] = (256, 256, 9.0),
    pairs: list[tuple[str, str]] = PAIRS,
    rules: TextRules | None = None,
) -> TokenDataset:
    read = [Pair(source, target, line) for line, (source, target) in enumerate(pairs, start=1)]
    texts = open_texts(folder / "texts", "k", lambda: read, CorpusReport("train"))
    rows = range(len(texts))
    tokenizers = TOKENIZER, TOKENIZER
    return open_tokens(folder / "tokens", texts, rows, tokenizers, limits, CorpusReport("train"), rules=rules)


def _take(stream: BatchStream, count: int) -> list[tuple[int, int, list[int], Any, Any]]:
    return [
        (epoch, number, batch.indices, batch.source.tolist(), batch.target_out.tolist())
        for epoch, number, batch in itertools.islice(stream, count)
    ]


# --- collate ------------------------------------------------------------------------------------------------------


def test_collate_shifts_the_target_and_pads_with_zero() -> None:
    batch = collate([[5, 6, 7], [8]], [[11], [12, 13]], [42, 7])
    assert batch.source.tolist() == [[5, 6, 7, 3], [8, 3, 0, 0]]
    assert batch.target_in.tolist() == [[2, 11, 0], [2, 12, 13]]
    assert batch.target_out.tolist() == [[11, 3, 0], [12, 13, 3]]
    assert batch.indices == [42, 7]
    assert batch.source_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.target_mask.tolist() == [[True, True, False], [True] * 3]
    assert batch.num_tokens == 5
    for tensor in (batch.source, batch.target_in, batch.target_out):
        assert tensor.dtype == torch.int64
    assert collate([[5]], [[6]]).indices == [0]


def test_collate_takes_arrays_and_empty_sides() -> None:
    batch = collate([np.array([5, 6], dtype=np.int32), np.array([], dtype=np.int32)], [[], []])
    assert batch.source.tolist() == [[5, 6, 3], [3, 0, 0]]
    assert (batch.target_in.tolist(), batch.target_out.tolist()) == ([[2], [2]], [[3], [3]])


@given(st.lists(st.tuples(*[st.lists(st.integers(4, 99), max_size=6)] * 2), min_size=1, max_size=6))
def test_in_and_out_are_the_target_shifted_by_one(pairs: list[tuple[list[int], list[int]]]) -> None:
    batch = collate([source for source, _ in pairs], [target for _, target in pairs])
    assert batch.num_tokens == sum(len(target) + 1 for _, target in pairs)
    for row, (source, target) in enumerate(pairs):
        real = batch.target_mask[row]
        assert batch.source[row][batch.source_mask[row]].tolist() == [*source, 3]
        assert batch.target_in[row][real].tolist() == [2, *target]
        assert batch.target_out[row][real].tolist() == [*target, 3]
        assert not batch.target_in[row][~real].any()
        assert not real.int().diff().gt(0).any()


def test_an_empty_or_uneven_batch_is_refused() -> None:
    for sources, targets in (([], []), ([[4]], []), ([[4]], [[5], [6]])):
        with pytest.raises(ValueError, match="as many targets as sources and at least one"):
            collate(sources, targets)


def test_to_moves_all_tensors() -> None:
    batch = collate([[5]], [[6]], [9]).to(torch.device("meta"))
    assert {tensor.device.type for tensor in (batch.source, batch.target_in, batch.target_out)} == {"meta"}
    assert isinstance(batch, Batch)
    assert batch.indices == [9]


# --- plan ---------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=80)


def _plan(lengths: list[tuple[int, int]], budget: int, seed: int = 1, epoch: int = 0) -> list[np.ndarray]:
    array = np.array(lengths, dtype=np.int32).reshape(-1, 2)
    return plan_epoch(array[:, 0], array[:, 1], budget, seed, epoch)


def _padded(length: int) -> int:
    return int(padded_length(np.array([length]))[0])


def _cost(lengths: list[tuple[int, int]], batch: np.ndarray) -> int:
    return len(batch) * _padded(max(max(lengths[int(i)]) for i in batch) + 1)


@given(LENGTHS, st.integers(16, 300), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_every_pair_is_in_one_batch_and_batches_keep_the_budget(
    lengths: list[tuple[int, int]], budget: int, seed: int, epoch: int
) -> None:
    plan = _plan(lengths, budget, seed, epoch)
    assert sorted(int(i) for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        assert _cost(lengths, batch) <= budget or len(batch) == 1
    # The shortest pair of the next batch would not have fitted into the one before: the budget is used.
    longest = sorted(
        (sorted(max(lengths[int(i)]) for i in batch) for batch in plan), key=lambda n: (n[0], n[-1], -len(n))
    )
    for first, second in itertools.pairwise(longest):
        assert (len(first) + 1) * _padded(second[0] + 1) > budget


@given(LENGTHS.filter(bool), st.integers(16, 300))
def test_number_and_sizes_of_batches_are_the_same_in_every_epoch(lengths: list[tuple[int, int]], budget: int) -> None:
    shapes = [
        sorted(sorted(lengths[int(i)] for i in batch) for batch in _plan(lengths, budget, seed, epoch))
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    lengths = [(number % 5 + 3, number % 3 + 2) for number in range(300)]
    plans = {
        (seed, epoch): [batch.tolist() for batch in _plan(lengths, 128, seed, epoch)]
        for seed, epoch in ((1, 0), (1, 1), (2, 0), (0, 1), (2, 1))
    }
    assert plans[1, 0] == [batch.tolist() for batch in _plan(lengths, 128, 1, 0)]
    for first, second in itertools.combinations(plans.values(), 2):
        assert first != second
        assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # not only the order of the batches differs
    longest = [max(max(lengths[i]) for i in batch) for batch in plans[1, 0]]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_the_exact_budget_is_allowed_and_one_more_is_not() -> None:
    assert sorted(len(batch) for batch in _plan([(9, 3)] * 8, 48)) == [4, 4]
    assert sorted(len(batch) for batch in _plan([(3, 9)] * 8, 47)) == [2, 3, 3]
    assert sorted(len(batch) for batch in _plan([(50, 3), (2, 2), (99, 99)], 30)) == [1, 1, 1]


def test_padding_is_a_small_part_of_a_batch() -> None:
    rng = np.random.default_rng(4)
    source = rng.poisson(14, 20_000) + 1
    target = np.maximum(1, source + rng.integers(-4, 5, 20_000))
    plan = plan_epoch(source, target, 4096, 1, 0)
    shapes = [(len(batch), int(source[batch].max()) + 1, int(target[batch].max()) + 1) for batch in plan]
    real = source.sum() + target.sum() + 40_000
    assert real / sum(rows * (S + T) for rows, S, T in shapes) > 0.9
    padded = [(rows, _padded(S), _padded(T)) for rows, S, T in shapes]
    assert real / sum(rows * (S + T) for rows, S, T in padded) > 0.85
    # What that is for: few shapes, each of which costs compiled kernels.
    assert len(set(padded)) < len(set(shapes)) / 2


def test_padded_lengths_are_few_and_waste_little() -> None:
    lengths = np.arange(1, 1000)
    padded = padded_length(lengths)
    assert (padded >= lengths).all()
    assert (padded - lengths <= np.maximum(3, lengths / 8)).all()
    assert padded[:70].tolist() == [-(-n // 4) * 4 for n in range(1, 65)] + [72] * 6
    assert len(set(padded.tolist())) == 16 + 4 * 8


def test_a_stream_pads_to_few_widths_and_only_with_padding(dataset: TokenDataset) -> None:
    _, _, batch = next(BatchStream(dataset, batch_tokens=200, seed=3))
    plain = collate([dataset.source(i) for i in batch.indices], [dataset.target(i) for i in batch.indices])
    for wide, narrow in ((batch.source, plain.source), (batch.target_in, plain.target_in)):
        assert wide.shape[1] == _padded(narrow.shape[1])
        assert torch.equal(wide[:, : narrow.shape[1]], narrow)
        assert not wide[:, narrow.shape[1] :].any()
    assert batch.num_tokens == plain.num_tokens


def test_padding_never_goes_past_what_the_data_set_admits() -> None:
    """A learned position table may be exactly as long as the longest sequence."""
    batch = collate([[5] * 9], [[6] * 4], limits=(10, 30))
    assert batch.source.shape[1] == 10
    assert batch.target_in.shape[1] == 8


# --- stream -------------------------------------------------------------------------------------------------------


def test_the_stream_goes_through_the_epochs(dataset: TokenDataset) -> None:
    stream = BatchStream(dataset, batch_tokens=200, seed=3)
    count = stream.batches_per_epoch
    assert 5 < count < 60
    assert (stream.epoch, stream.batch) == (0, 0)
    seen = _take(stream, 2 * count + 1)
    assert [(epoch, number) for epoch, number, *_ in seen] == [
        (epoch, number) for epoch in (0, 1, 2) for number in range(count)
    ][: 2 * count + 1]
    assert (stream.epoch, stream.batch) == (2, 1)
    for epoch in (0, 1):
        assert sorted(i for e, _, indices, *_ in seen if e == epoch for i in indices) == list(range(len(dataset)))
    assert [indices for _, _, indices, *_ in seen[:count]] != [indices for _, _, indices, *_ in seen[count:-1]]


def test_a_batch_holds_its_pairs(dataset: TokenDataset) -> None:
    for _, _, batch in itertools.islice(BatchStream(dataset, batch_tokens=200, seed=3), 10):
        for row, index in enumerate(batch.indices):
            assert batch.source[row][batch.source_mask[row]].tolist() == [*dataset.source(index).tolist(), 3]
            assert batch.target_out[row][batch.target_mask[row]].tolist() == [*dataset.target(index).tolist(), 3]
        assert batch.source.shape[1] * len(batch.indices) <= 200
        assert batch.target_in.shape[1] * len(batch.indices) <= 200


@pytest.mark.parametrize(("alpha", "drop"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.2, 0.5)])
@settings(max_examples=20)
@given(st.data())
def test_a_stream_started_anywhere_is_the_undisturbed_one(
    punctuated: TokenDataset, alpha: float, drop: float, data: Any
) -> None:
    def stream(epoch: int = 0, batch: int = 0) -> BatchStream:
        return BatchStream(
            punctuated,
            batch_tokens=200,
            seed=3,
            epoch=epoch,
            batch=batch,
            sampling_alpha=alpha,
            drop_final_punctuation=drop,
            source_tokenizer=TOKENIZER,
            target_tokenizer=TOKENIZER,
        )

    count = stream().batches_per_epoch
    undisturbed = UNDISTURBED.setdefault((alpha, drop), _take(stream(), 3 * count))
    start = data.draw(st.integers(0, 2 * count))
    epoch, number, *_ = undisturbed[start]
    assert _take(stream(epoch, number), 4) == undisturbed[start : start + 4]
    assert _take(stream(epoch, number + 1), 4) == undisturbed[start + 1 : start + 5]


UNDISTURBED: dict[tuple[float, float], list[Any]] = {}


def test_one_past_the_last_batch_is_the_next_epoch(dataset: TokenDataset) -> None:
    count = BatchStream(dataset, batch_tokens=200, seed=3).batches_per_epoch
    stream = BatchStream(dataset, batch_tokens=200, seed=3, epoch=4, batch=count)
    assert (stream.epoch, stream.batch) == (5, 0)
    assert _take(stream, 3) == _take(BatchStream(dataset, batch_tokens=200, seed=3, epoch=5), 3)


def test_positions_that_do_not_exist_and_missing_parts_are_refused(dataset: TokenDataset, tmp_path: Path) -> None:
    count = BatchStream(dataset, batch_tokens=200, seed=3).batches_per_epoch
    for epoch, batch, reason in (
        (0, count + 1, f"an epoch has {count} batches"),
        (0, -1, "both are counted from 0"),
        (-1, 0, "both are counted from 0"),
    ):
        with pytest.raises(ValueError, match=f"^no batch {batch} in epoch {epoch}: {reason}$"):
            BatchStream(dataset, batch_tokens=200, seed=3, epoch=epoch, batch=batch)
    with pytest.raises(ValueError, match="needs both tokenizers"):
        BatchStream(dataset, batch_tokens=200, seed=3, sampling_alpha=0.1, source_tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="needs the source tokenizer"):
        BatchStream(dataset, batch_tokens=200, seed=3, drop_final_punctuation=0.1)
    empty = open_tokens(tmp_path, dataset.texts, [], (TOKENIZER, TOKENIZER), (9, 9, 9.0), CorpusReport("x"))
    with pytest.raises(ValueError, match="at least one pair"):
        BatchStream(empty, batch_tokens=200, seed=3)


def _sampled(dataset: TokenDataset, budget: int, seed: int = 3, epoch: int = 0, alpha: float = 0.1) -> dict[int, Any]:
    tokenizer: Tokenizer = TOKENIZER
    stream = BatchStream(
        dataset,
        batch_tokens=budget,
        seed=seed,
        epoch=epoch,
        sampling_alpha=alpha,
        source_tokenizer=tokenizer,
        target_tokenizer=tokenizer,
    )
    found = {}
    for _, _, batch in itertools.islice(stream, stream.batches_per_epoch):
        for row, index in enumerate(batch.indices):
            found[index] = (
                batch.source[row][batch.source_mask[row]].tolist(),
                batch.target_out[row][batch.target_mask[row]].tolist(),
            )
    assert len(found) == len(dataset)
    return found


def test_a_sampled_segmentation_belongs_to_seed_epoch_pair_and_side(dataset: TokenDataset) -> None:
    first = _sampled(dataset, 200)
    assert first == _sampled(dataset, 900)  # whatever is in the batch with it
    for other in (_sampled(dataset, 200, seed=4), _sampled(dataset, 200, epoch=1)):
        assert sum(first[index] != other[index] for index in first) > len(first) / 2
    for index, (source, target) in first.items():
        assert TOKENIZER.decode(source) == dataset.source_text(index)
        assert TOKENIZER.decode(target) == dataset.target_text(index)
    best = sum(source == [*dataset.source(index).tolist(), 3] for index, (source, _) in first.items())
    assert best < len(first) / 2


def test_equal_texts_are_drawn_apart(tmp_path: Path) -> None:
    pairs = [Pair(*PAIRS[0], line) for line in range(1, 61)]
    texts = open_texts(tmp_path / "texts", "k", lambda: pairs, CorpusReport("train"))
    same = open_tokens(
        tmp_path / "tokens", texts, range(60), (TOKENIZER, TOKENIZER), (256, 256, 9.0), CorpusReport("train")
    )
    assert len({tuple(source) for source, _ in _sampled(same, 200).values()}) > 10


def test_the_two_sides_are_drawn_apart(tmp_path: Path) -> None:
    pairs = [Pair(source, source, line) for line, (source, _) in enumerate(PAIRS, start=1)]
    texts = open_texts(tmp_path / "texts", "k", lambda: pairs, CorpusReport("train"))
    same = open_tokens(
        tmp_path / "tokens", texts, range(90), (TOKENIZER, TOKENIZER), (256, 256, 9.0), CorpusReport("train")
    )
    assert sum(source != target for source, target in _sampled(same, 200).values()) > 45


def test_a_sampled_segmentation_over_the_limit_is_replaced_by_the_best(tmp_path: Path) -> None:
    longest = max(len(TOKENIZER.encode(text)) for pair in PAIRS for text in pair)
    limited = _dataset(tmp_path, limits=(longest, longest - 1, 9.0))
    assert limited.report.count("too_long") > 0
    sampled = _sampled(limited, 200)
    assert max(len(source) for source, _ in sampled.values()) <= longest + 1
    assert max(len(target) for _, target in sampled.values()) <= longest
    assert any(source != [*limited.source(index).tolist(), 3] for index, (source, _) in sampled.items())
    assert isinstance(TOKENIZER, SentencePieceTokenizer)


# --- final punctuation --------------------------------------------------------------------------------------------


def _dropped(dataset: TokenDataset, share: float, budget: int = 200, seed: int = 3, epoch: int = 0) -> dict[int, bool]:
    """For each pair, whether its source came without final punctuation; it, and the target, must be nothing else."""
    stream = BatchStream(
        dataset,
        batch_tokens=budget,
        seed=seed,
        epoch=epoch,
        drop_final_punctuation=share,
        source_tokenizer=TOKENIZER,
    )
    found = {}
    for _, _, batch in itertools.islice(stream, stream.batches_per_epoch):
        for row, index in enumerate(batch.indices):
            whole = dataset.read_pair(index)[0]
            source = batch.source[row][batch.source_mask[row]].tolist()
            choices = [[*TOKENIZER.encode(text), 3] for text in (whole, without_final_punctuation(whole))]
            assert source in choices
            found[index] = source != choices[0]
            assert batch.target_out[row][batch.target_mask[row]].tolist() == [*dataset.target(index).tolist(), 3]
    assert len(found) == len(dataset)
    return found


def test_final_punctuation_is_dropped_by_seed_epoch_and_pair(punctuated: TokenDataset) -> None:
    first = _dropped(punctuated, 0.5)
    assert first == _dropped(punctuated, 0.5, budget=900)  # whatever is in the batch with it
    assert first != _dropped(punctuated, 0.5, epoch=1)
    assert first != _dropped(punctuated, 0.5, seed=4)
    assert 25 < sum(first.values()) < 56  # of 81 that have any
    assert not any(first[index] for index in range(81, 90))


def test_none_or_all_are_dropped_at_the_ends_of_the_range(punctuated: TokenDataset) -> None:
    assert not any(_dropped(punctuated, 0.0).values())
    assert sum(_dropped(punctuated, 1.0).values()) == 81


def test_a_source_of_nothing_else_stays(tmp_path: Path) -> None:
    assert not any(_dropped(_dataset(tmp_path, pairs=[("...", "dots"), ("!", "!")]), 1.0).values())


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_drawn_texts_go_through_the_rules_as_the_stored_tokens_did(tmp_path: Path, alpha: float) -> None:
    dataset = _dataset(tmp_path, pairs=[("the 頭髮.", "die Haare.")], rules=TextRules("simplified"))
    stored = TOKENIZER.decode(dataset.source(0).tolist())
    stream = BatchStream(
        dataset,
        batch_tokens=200,
        seed=3,
        sampling_alpha=alpha,
        drop_final_punctuation=1.0,
        source_tokenizer=TOKENIZER,
        target_tokenizer=TOKENIZER,
    )
    _, _, batch = next(stream)
    assert (stored, TOKENIZER.decode(batch.source[0].tolist())) == ("the 头发.", "the 头发")
