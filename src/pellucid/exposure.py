"""Exposure bias: how much worse a model goes on from its own words than from a reference's.

Training shows a model gold prefixes only; in use it reads what it has written itself (Ranzato et al. 2016). Here the
same positions of the same sentences are looked at behind both prefixes. Behind a gold prefix the next word ought to be
the reference's. Behind a prefix of the model's own it ought to be one that leads to the reference with the fewest
further edits (Optimal Completion Distillation, Sabour, Chan & Norouzi 2019): what follows, in the reference, those of
its prefixes that are nearest to the own one by edit distance. Behind a gold prefix that is the reference's next token
again, so one measure serves both: −log of the probability that the model gives to these tokens together.

Knows nothing of how search works. Shapes: N states, V vocabulary, O tokens that are right at one state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pellucid.config import DecodingConfig
from pellucid.decoding.scoring import MOST_LOGITS
from pellucid.errors import DataError, LengthError, PellucidError
from pellucid.translator import Translator

__all__ = ["Exposure", "PositionLosses", "measure_exposure", "optimal_tokens"]

LAST_POSITIONS = (1, 4, 8, 16, 32, 64)
"""Last positions, counted from 1, of the rows of a report; a further row has what comes behind them."""
CHUNK_BATCHES = 8  # batches between two calls of progress

GREEDY: dict[str, Any] = {"sampling": False, "beam_size": 1, "diversity_groups": 1, "diversity_strength": 0.5}


@dataclass(frozen=True, slots=True)
class PositionLosses:
    """What the model says next at some positions, behind the reference's words and behind its own.

    Attributes:
        first, last: positions, counted from 1; ``last`` is None where there is no end.
        positions: how many are compared, over all sentences.
        gold_loss: mean −log p (natural logarithm) of the reference's next token behind the reference's prefix.
        own_loss: mean −log p of the right next tokens together behind the model's own prefix of the same length.
        gap: ``own_loss`` − ``gold_loss``.
        gold_accuracy, own_accuracy: share of positions where the most probable token is right, in that sense.
        same_prefix: share of positions where the two prefixes are the same.
    """

    first: int
    last: int | None
    positions: int
    gold_loss: float
    own_loss: float
    gap: float
    gold_accuracy: float
    own_accuracy: float
    same_prefix: float


@dataclass(frozen=True, slots=True)
class _Cells:
    """One sentence: losses and hits [2, positions] behind gold and own prefixes; positions on one side only."""

    losses: np.ndarray
    right: np.ndarray
    same: np.ndarray
    gold_only: int
    own_only: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """A report of exposure bias.

    Attributes:
        pairs: sentences compared.
        blank: pairs left out because their source is blank.
        whole: all positions.
        rows: the same by position; without those that no sentence reaches.
        gold_only: positions of references behind the end of the model's output; not compared.
        own_only: positions of outputs behind the end of the reference; not compared.
    """

    pairs: int
    blank: int
    whole: PositionLosses
    rows: tuple[PositionLosses, ...]
    gold_only: int
    own_only: int


def measure_exposure(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Exposure:
    """Compare what a model says next behind a reference's prefixes and behind its own, position by position.

    Args:
        translator: a model of texts that have a source.
        sources, references: as many of each.
        progress: called now and then with the number of pairs done.
        **settings: how the model writes its own prefixes, of :class:`~pellucid.config.DecodingConfig`; default: greedy
            search within the model's own limits.

    Raises:
        ConfigError: a setting is unknown or out of range.
        DataError: not as many references as sources, or no source but blank ones.
        LengthError: a text is longer than the model's learned positions or ``max_source_length``.
    """
    if len(sources) != len(references):
        raise DataError(f"{len(sources)} sources and {len(references)} references: every source needs its reference")
    config = translator.settings(**{**GREEDY, **settings, "n_best": 1, "unknown": "keep"})
    places = [place for place, source in enumerate(sources) if source.strip()]
    if not places:
        raise DataError("nothing to compare: there is no source text that is not blank")
    cells: list[_Cells] = []
    size = CHUNK_BATCHES * config.batch_size
    for start in range(0, len(places), size):
        chunk = places[start : start + size]
        texts = [sources[place] for place in chunk], [references[place] for place in chunk]
        try:
            cells += _compare(translator, *texts, start, config)
        except LengthError as error:
            number = chunk[(error.number or 1) - 1] + 1
            raise LengthError(error.reason, number=number, side=error.side) from None
        if progress is not None:
            progress(chunk[-1] + 1)
    return _report(cells, len(sources) - len(places))


@torch.inference_mode()
def _compare(
    translator: Translator, sources: list[str], references: list[str], start: int, config: DecodingConfig
) -> list[_Cells]:
    """The positions of some pairs; ``start`` is the place of the first in the input, for samples."""
    pairs = [
        translator.pair_ids(source, reference, number, config)
        for number, (source, reference) in enumerate(zip(sources, references, strict=True), 1)
    ]
    generations = translator.generate(sources, first_index=start, **config.model_dump())
    results: dict[int, _Cells] = {}
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0])))
    end = translator.target_tokenizer.eos_id
    for first in range(0, len(order), config.batch_size):
        chosen = order[first : first + config.batch_size]
        encoded = [pairs[i][0] for i in chosen]
        gold = [pairs[i][1] for i in chosen]
        said = [generations[i].hypotheses[0].token_ids for i in chosen]
        own = [[token for token in ids if token != end] for ids in said]
        compared = [min(len(y) + 1, len(ids)) for y, ids in zip(gold, said, strict=True)]
        behind_gold = _look(translator, encoded, gold, [[[token] for token in [*y, end]] for y in gold])
        wanted = [optimal_tokens(ids, y, end) for ids, y in zip(own, gold, strict=True)]
        behind_own = _look(translator, encoded, own, wanted)
        for row, index in enumerate(chosen):
            count = compared[row]
            agreed = next((i for i, (a, b) in enumerate(zip(own[row], gold[row], strict=False)) if a != b), count)
            results[index] = _Cells(
                np.array([found[row][0][:count] for found in (behind_gold, behind_own)]),
                np.array([found[row][1][:count] for found in (behind_gold, behind_own)]),
                np.arange(count) <= agreed,
                len(gold[row]) + 1 - count,
                len(said[row]) - count,
            )
    return [results[index] for index in range(len(pairs))]


def optimal_tokens(prefix: Sequence[int], gold: Sequence[int], end: int) -> list[list[int]]:
    """Which tokens lead from each prefix to ``gold`` with the fewest further edits (Sabour et al. 2019, section 3.2).

    They are those that follow the prefixes of ``gold`` with the least edit distance (insertions, deletions and
    substitutions count 1) to what has been said; behind the whole of it, ``end``.

    Args:
        prefix: tokens without ``</s>``.
        gold: tokens without ``</s>``.
        end: ``</s>``.

    Returns:
        For 0, 1, … all tokens of ``prefix`` said: different tokens, in ascending order.
    """
    following = np.array([*gold, end])
    places = np.arange(len(gold) + 1)
    distance = places.copy()  # of nothing said to each prefix of gold
    found = [following[:1].tolist()]
    for said, token in enumerate(prefix, 1):
        changed = distance[:-1] + (following[:-1] != token)
        distance = np.concatenate(([said], np.minimum(distance[1:] + 1, changed)))
        # What gold has more costs 1 each: d[t] = min over s <= t of d[s] + t - s.
        distance = np.minimum.accumulate(distance - places) + places
        found.append(np.unique(following[distance == distance.min()]).tolist())
    return found


def _look(
    translator: Translator, sources: list[list[int]], prefixes: list[list[int]], wanted: list[list[list[int]]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each sentence: −log p of the wanted tokens together at each position, and whether the best one is of them."""
    batch = translator.batch(sources, prefixes)
    model = translator.model
    states = model.decode(batch.source, batch.source_mask, batch.target_in)[batch.target_mask]
    flat = [tokens for row in wanted for tokens in row]
    width = max(map(len, flat))
    # Repeated where there are fewer, and then counted once.
    table = torch.tensor([[*tokens, *tokens[:1] * (width - len(tokens))] for tokens in flat], device=states.device)
    counts = torch.tensor([len(tokens) for tokens in flat], device=states.device)
    extra = torch.arange(width, device=states.device) >= counts[:, None]
    losses, right = [], []
    rows = max(1, MOST_LOGITS // translator.target_vocab_size)
    for part, tokens, surplus in zip(states.split(rows), table.split(rows), extra.split(rows), strict=True):
        logits = model.output(part).float()
        chosen = logits.gather(1, tokens).masked_fill(surplus, -torch.inf)
        losses.append(logits.logsumexp(1) - chosen.logsumexp(1))
        right.append((logits.argmax(1, keepdim=True) == tokens).any(1))
    all_losses, all_right = torch.cat(losses), torch.cat(right)
    if all_losses.isnan().any():
        raise PellucidError("the model's log-probabilities contain NaN: its weights are broken; check the checkpoint")
    sizes = [len(row) for row in wanted]
    return [
        (loss.cpu().numpy().astype(np.float64), hit.cpu().numpy())
        for loss, hit in zip(all_losses.split(sizes), all_right.split(sizes), strict=True)
    ]


def _report(cells: list[_Cells], blank: int) -> Exposure:
    position = np.concatenate([np.arange(1, len(cell.same) + 1) for cell in cells])
    losses, right = (np.concatenate([getattr(cell, name) for cell in cells], 1) for name in ("losses", "right"))
    same = np.concatenate([cell.same for cell in cells])

    def row(first: int, last: int | None) -> PositionLosses:
        inside = (position >= first) & (position <= (np.inf if last is None else last))
        gold_loss, own_loss = losses[:, inside].mean(1).tolist()
        gold_right, own_right = right[:, inside].mean(1).tolist()
        count = int(inside.sum())
        rest = own_loss - gold_loss, gold_right, own_right, float(same[inside].mean())
        return PositionLosses(first, last, count, gold_loss, own_loss, *rest)

    ends = [*LAST_POSITIONS, None]
    starts = [1, *(last + 1 for last in LAST_POSITIONS)]
    longest = int(position.max())
    return Exposure(
        pairs=len(cells),
        blank=blank,
        whole=row(1, None),
        rows=tuple(row(first, last) for first, last in zip(starts, ends, strict=True) if first <= longest),
        gold_only=sum(cell.gold_only for cell in cells),
        own_only=sum(cell.own_only for cell in cells),
    )
