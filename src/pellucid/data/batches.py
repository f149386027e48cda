"""Batches: padding, the teacher-forcing shift, token-budget buckets, and a stream that can start anywhere.

Knows nothing of models. A batch depends only on the data set, the settings, the seed and its position (epoch, number),
never on what was drawn before it: that is what makes resuming exact.

Shapes: B sentences, S source tokens with </s>, T target tokens with </s>.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.data.dataset import TokenDataset
from pellucid.data.punctuation import without_final_punctuation
from pellucid.data.tagging import tagged
from pellucid.data.tokenizer_kinds import BOS, EOS, PAD, Tokenizer, framed

__all__ = ["Batch", "BatchStream", "collate", "padded_length", "plan_dataset", "plan_epoch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences padded to rectangles, always at the end of a row.

    Attributes:
        source: [B, S], ``x₁ … xₙ </s>``.
        target_in: [B, T], ``<s> y₁ … yₘ``: what the decoder reads.
        target_out: [B, T], ``y₁ … yₘ </s>``: what it should say at the same place.
        indices: the pairs' numbers in the data set.
        source_pad, target_pad: what padding is, there and in ``target_out``; no real token is it.
    """

    source: Int64[Tensor, "B S"]
    target_in: Int64[Tensor, "B T"]
    target_out: Int64[Tensor, "B T"]
    indices: list[int]
    source_pad: int = PAD
    target_pad: int = PAD

    @property
    def source_mask(self) -> Bool[Tensor, "B S"]:
        """True where a source token is real (not padding)."""
        return self.source != self.source_pad

    @property
    def target_mask(self) -> Bool[Tensor, "B T"]:
        """True where a target token is real; the same for ``target_in`` and ``target_out``."""
        return self.target_out != self.target_pad

    @property
    def num_tokens(self) -> int:
        """Real target tokens, </s> included: what a loss is divided by."""
        return int(self.target_mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        source, target_in, target_out = (x.to(device) for x in (self.source, self.target_in, self.target_out))
        return replace(self, source=source, target_in=target_in, target_out=target_out)


def padded_length(lengths: np.ndarray) -> np.ndarray:
    """The widths a training batch gives to sequences of these lengths: a multiple of 4, of 8 from 65 on, and so on.

    A CPU's matrix kernels are compiled for every new shape, kept, and cost memory: with few different widths a run has
    compiled all it needs after one epoch (benchmarks/NOTES.md).
    """
    power = np.ceil(np.log2(np.maximum(lengths, 64))).astype(np.int64)
    step = 2 ** (power - 4)
    padded: np.ndarray = -(-lengths // step) * step
    return padded


def collate(
    sources: Sequence[Sequence[int] | np.ndarray],
    targets: Sequence[Sequence[int] | np.ndarray],
    indices: Sequence[int] | None = None,
    *,
    limits: tuple[int, int] | None = None,
    tokenizers: tuple[Tokenizer, Tokenizer] | None = None,
) -> Batch:
    """Make a batch of token numbers without <s> and </s>: append </s>, shift the target, pad.

    Args:
        sources, targets: as many of each.
        indices: their numbers in the data set; default: their places here.
        limits: the greatest widths of source and target that may be; then it pads further, to a :func:`padded_length`.
        tokenizers: of source and target, where their special tokens have other numbers than those of our own kinds.
    """
    if len(sources) != len(targets) or not sources:
        raise ValueError(
            f"a batch needs as many targets as sources and at least one, not {len(targets)} and {len(sources)}"
        )
    rows = len(sources)
    widths = [max(map(len, side)) + 1 for side in (sources, targets)]
    if limits is not None:
        widths = np.maximum(widths, np.minimum(padded_length(np.array(widths)), limits)).tolist()
    source_pad, source_eos = (PAD, EOS) if tokenizers is None else (tokenizers[0].pad_id, tokenizers[0].eos_id)
    target_pad, bos, eos = (PAD, BOS, EOS)
    if tokenizers is not None:
        target_pad, bos, eos = tokenizers[1].pad_id, tokenizers[1].bos_id, tokenizers[1].eos_id
    source = np.full((rows, widths[0]), source_pad, dtype=np.int64)
    target_in = np.full((rows, widths[1]), target_pad, dtype=np.int64)
    target_out = np.full_like(target_in, target_pad)
    for row, (x, y) in enumerate(zip(sources, targets, strict=True)):
        source[row, : len(x)] = x
        source[row, len(x)] = source_eos
        target_in[row, 0] = bos
        target_in[row, 1 : len(y) + 1] = y
        target_out[row, : len(y)] = y
        target_out[row, len(y)] = eos
    numbers = list(range(rows)) if indices is None else [int(index) for index in indices]
    tensors = torch.from_numpy(source), torch.from_numpy(target_in), torch.from_numpy(target_out)
    return Batch(*tensors, numbers, source_pad, target_pad)


def plan_epoch(
    source_lengths: np.ndarray, target_lengths: np.ndarray, batch_tokens: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Divide the pairs into batches of at most ``batch_tokens`` = rows × longest side, as padded, </s> included.

    Pairs are sorted by their longer side, then by how much longer it is, so that a batch holds similar lengths on both
    sides; the order among equal lengths and the order of the batches are drawn anew for each (seed, epoch). The number
    and sizes of the batches are the same in every epoch. A pair longer than the budget makes a batch of its own:
    nothing is left out.

    Args:
        source_lengths, target_lengths: [pairs], tokens without specials.
        batch_tokens: the budget.
        seed, epoch: decide the order.

    Returns:
        For each batch, in order, the pairs' indices; each index occurs once in all.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=(0, epoch))))
    source = np.asarray(source_lengths, dtype=np.int64) + 1
    target = np.asarray(target_lengths, dtype=np.int64) + 1
    longest = np.maximum(source, target)
    order = rng.permutation(len(longest))
    # The difference runs up for one longest side and down for the next, as a furrow is ploughed: where a batch spans
    # two, it still holds similar pairs (on Multi30k at 4,096 tokens 96 % of the cells would be text, 93 % without
    # this key; padding to few widths leaves 89 %).
    difference = np.where(longest % 2, source - target, target - source)
    order = order[np.lexsort((difference[order], longest[order]))]
    longest = padded_length(longest[order])
    batches = []
    start = 0
    while start < len(order):
        # longest is ascending, so a batch's widest row is its last.
        window = longest[start : start + max(1, batch_tokens // int(longest[start]))]
        fits = np.flatnonzero(window * np.arange(1, len(window) + 1) <= batch_tokens)
        stop = start + (int(fits[-1]) + 1 if len(fits) else 1)
        batches.append(order[start:stop])
        start = stop
    return [batches[number] for number in rng.permutation(len(batches))]


def plan_dataset(dataset: TokenDataset, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """:func:`plan_epoch` for the pairs that an epoch of a data set has; a mixture has some more than once, or not."""
    rows = dataset.rows_of_epoch(seed, epoch)
    plan = plan_epoch(dataset.source_lengths[rows], dataset.target_lengths[rows], batch_tokens, seed, epoch)
    return [rows[batch] for batch in plan]


class BatchStream:
    """Batches forever, epoch after epoch, from any position.

    Iterating yields ``(epoch, number, batch)``, both counted from 0. A stream made with ``epoch=e, batch=n`` yields
    from there exactly what an undisturbed one yields; to go on after (e, n), start at (e, n + 1), also where that is
    one past the last batch of e.

    Args:
        dataset: token numbers, and the texts where the last two settings need them.
        batch_tokens: see :func:`plan_epoch`.
        seed: of everything that is drawn.
        epoch, batch: where to start.
        sampling_alpha: > 0 draws a new segmentation of each text in each epoch (Kudo 2018); it depends on seed, epoch,
            pair and side alone. Batches are planned by the best segmentation, so sampled ones may exceed the budget a
            little; one longer than the data set's limit is replaced by the best.
        drop_final_punctuation: the probability that a source is given without the marks that end its last sentence; it
            is decided anew in each epoch, by seed, epoch and pair alone. Batches are planned by the whole text.
        source_tokenizer, target_tokenizer: needed for these two, and where their special tokens have other numbers than
            those of our own kinds.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        batch_tokens: int,
        seed: int,
        epoch: int = 0,
        batch: int = 0,
        sampling_alpha: float = 0.0,
        drop_final_punctuation: float = 0.0,
        source_tokenizer: Tokenizer | None = None,
        target_tokenizer: Tokenizer | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.sampling_alpha = sampling_alpha
        self.drop_final_punctuation = drop_final_punctuation
        self._tokenizers = (source_tokenizer, target_tokenizer)
        if sampling_alpha and None in self._tokenizers:
            raise ValueError("sampling_alpha > 0 needs both tokenizers")
        if drop_final_punctuation and source_tokenizer is None:
            raise ValueError("drop_final_punctuation > 0 needs the source tokenizer")
        if not len(dataset):
            raise ValueError("a stream of batches needs at least one pair")
        if epoch < 0 or batch < 0:
            raise ValueError(f"no batch {batch} in epoch {epoch}: both are counted from 0")
        self.epoch = epoch
        self.batch = batch
        self._plan = self._make_plan()
        self.batches_per_epoch = len(self._plan)
        if batch > len(self._plan):
            raise ValueError(f"no batch {batch} in epoch {epoch}: an epoch has {len(self._plan)} batches")
        if batch == len(self._plan):
            self._next_epoch()

    def __iter__(self) -> Iterator[tuple[int, int, Batch]]:
        return self

    def __next__(self) -> tuple[int, int, Batch]:
        position = self.epoch, self.batch
        batch = self._make(self._plan[self.batch])
        self.batch += 1
        if self.batch == len(self._plan):
            self._next_epoch()
        return *position, batch

    def _next_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0
        self._plan = self._make_plan()

    def _make_plan(self) -> list[np.ndarray]:
        return plan_dataset(self.dataset, self.batch_tokens, self.seed, self.epoch)

    def _make(self, indices: np.ndarray) -> Batch:
        numbers = [int(index) for index in indices]
        sources, targets = ([self._tokens(i, side) for i in numbers] for side in (0, 1))
        dataset = self.dataset  # a learned position table may be no longer than the longest pair it admits
        limits = dataset.max_source_tokens + 1, dataset.max_target_tokens + 1
        source, target = self._tokenizers
        tokenizers = None if source is None or target is None else (source, target)
        return collate(sources, targets, numbers, limits=limits, tokenizers=tokenizers)

    def _tokens(self, index: int, side: int) -> Sequence[int] | np.ndarray:
        dataset = self.dataset
        best = dataset.target(index) if side else dataset.source(index)
        drops = not side and self._drops(index)
        if not self.sampling_alpha and not drops:
            return best
        tokenizer = self._tokenizers[side]
        assert tokenizer is not None
        text = dataset.read_pair(index)[side]
        if drops:
            text = without_final_punctuation(text)
        if self.sampling_alpha:
            ids = tokenizer.sample(text, self.sampling_alpha, self._generator(1, self.epoch, index, side))
        else:
            ids = tokenizer.encode(text)
        longest = dataset.max_target_tokens if side else dataset.max_source_tokens
        whole = framed(tokenizer if side else tagged(tokenizer, dataset.tag_of(index)), ids)
        return whole if ids and len(whole) <= longest else best

    def _drops(self, index: int) -> bool:
        share = self.drop_final_punctuation
        return bool(share and self._generator(2, self.epoch, index).random() < share)

    def _generator(self, *place: int) -> np.random.Generator:
        """Random numbers that belong to the seed and a place, whatever was drawn before."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=self.seed, spawn_key=place)))
