"""Which attention heads align words: chosen on development pairs without alignments made by hand.

The reference is the model itself. For each source word, the target is scored once more with the word hidden from the
whole model (a mask over its tokens, in the encoder and in cross-attention), and the fall of log p of each target word
is what the word was worth to it: the prediction difference of Zintgraf et al. 2017, which Li et al. 2019 ("On the Word
Alignment from Neural Machine Translation") found to align better than attention as such. It costs a pass for each
source word, so it is used here once, as a reference, and never while translating.

A target word has a *clear* reference where hiding one source word makes it at least e times less probable, and costs
at least twice what hiding any other costs; the rest says little about heads and is left out. The heads wanted are those
whose mean attention most often has its greatest weight at the clear reference. Half of the pairs choose; what is
reported was measured on the other half, beside what chance, the diagonal and the default reach there.

Knows nothing of files. Shapes: L decoder layers, H query heads, N groups of target and M of source units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float

from pellucid.alignment import (
    AlignmentHeads,
    Reading,
    default_heads,
    group_weights,
    head_matrices,
    segment_pairs,
)
from pellucid.data.batches import collate
from pellucid.data.units import Segments
from pellucid.decoding.scoring import forced_logprobs
from pellucid.errors import ConfigError, DataError, LengthError
from pellucid.translator import Translator

__all__ = ["MAX_PAIRS", "choose_heads", "clear_links", "hiding_costs"]

MAX_PAIRS = 400
METHOD = "leave-one-out: the source word whose hiding lowers log p of the target word most"
CLEAR_FALL = 1.0  # natural logarithm
CLEAR_FACTOR = 2.0
FEWEST_WORDS = 50  # with a clear reference, in each half
MOST_HEADS = 4
LEAST_GAIN = 0.005  # for which a further head is taken in
_ROWS = 64
_MOST_BYTES = 1 << 30  # kept of the attention, all pairs together


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What one pair says: the clear references of its target words, and where each head looks from there.

    Attributes:
        reference: [n] source groups.
        weights: for each reading [L·H, n, M].
        rest: for each reading [L·H, n], attention to none of the source.
        diagonal: [n] source groups at the same relative place.
        chance: [n] probability of guessing right.
    """

    reference: np.ndarray
    weights: dict[Reading, np.ndarray]
    rest: dict[Reading, np.ndarray]
    diagonal: np.ndarray
    chance: np.ndarray

    def right(self, reading: Reading, candidates: np.ndarray) -> np.ndarray:
        """[C] words that the mean of each candidate's heads links to their reference; candidates are [C, n] heads."""
        weights = self.weights[reading][candidates].mean(1)
        rest = self.rest[reading][candidates].mean(1)
        found: np.ndarray = ((weights.argmax(-1) == self.reference) & (rest <= 0.5)).sum(-1)
        return found


def choose_heads(
    translator: Translator,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    max_pairs: int = MAX_PAIRS,
    progress: Callable[[int, int], None] | None = None,
) -> AlignmentHeads:
    """Choose heads on pairs that the model was not trained on.

    Every head, the mean of every layer's heads, and the mean of all are tried at both readings
    (:data:`~pellucid.alignment.Reading`); to the best head others are added, up to four, while one raises the agreement
    by half a percent. Nothing is random: the same pairs give the same choice.

    Args:
        translator: the model.
        sources, targets: pairs; those with a blank side are left out, and of the rest at most ``max_pairs`` are taken,
            evenly spread; of these, those that are longer than the model reads are passed over and counted.
        max_pairs: some hundreds are enough.
        progress: told how many pairs are done, and of how many.

    Returns:
        The heads; ``report`` holds the method, the agreement in percent on the half that did not choose, what
        chance, diagonal and default reach there, every head's agreement on the half that chose, and the SHA-256 of
        the pairs.

    Raises:
        DataError: not as many targets as sources, or too few words with a clear reference.
    """
    pairs, too_long = _taken(translator, sources, targets, max_pairs)
    used = list(pairs)
    found: dict[int, _Evidence] = {}
    # Pair by pair as the attention comes: all heads of all pairs would take gigabytes.
    for done, (index, attention) in enumerate(head_matrices(translator, [pairs[number] for number in used], None), 1):
        evidence = _evidence(translator, *pairs[used[index]], attention, _MOST_BYTES // len(used))
        if evidence is not None:
            found[index] = evidence
        if progress is not None:
            progress(done, len(used))
    choosing, judging = halves = [[found[index] for index in sorted(found) if index % 2 == half] for half in (0, 1)]
    words = [sum(len(evidence.reference) for evidence in half) for half in halves]
    if min(words) < FEWEST_WORDS:
        raise DataError(
            f"{len(used)} pairs with text on both sides have {sum(words)} target words whose source word is clear, and "
            f"{2 * FEWEST_WORDS}, spread over them, are needed to choose heads: give more pairs, of the text that the "
            "model was made for" + (f" ({too_long} more are longer than the model reads)" if too_long else "")
        )
    config = translator.model.config
    chosen, table = _choose(choosing, config.decoder_layers, config.num_heads)
    default = default_heads(translator)
    text = "".join(f"{sources[number]}\t{targets[number]}\n" for number in used)
    report: dict[str, Any] = {
        "method": METHOD,
        "agreement": _agreement(judging, chosen, config.num_heads),
        "default": _agreement(judging, default, config.num_heads),
        "diagonal": _percent(sum(int((e.diagonal == e.reference).sum()) for e in judging), words[1]),
        "chance": _percent(sum(float(e.chance.sum()) for e in judging), words[1]),
        "pairs": len(used),
        "too_long": too_long,
        "clear_words": sum(words),
        "judged_words": words[1],
        "heads_alone": table,
        "pairs_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return AlignmentHeads(chosen.heads, chosen.reading, report)


def _taken(
    translator: Translator, sources: Sequence[str], targets: Sequence[str], most: int
) -> tuple[dict[int, tuple[Segments, Segments]], int]:
    """Number of each pair that is used, with its tokens; and how many were passed over for their length."""
    if isinstance(sources, str) or isinstance(targets, str):
        raise ConfigError("sources and targets are lists of texts: write [text]")
    if len(sources) != len(targets):
        raise DataError(f"{len(sources)} sources and {len(targets)} targets: every source needs its target")
    usable = [number for number in range(len(sources)) if sources[number].strip() and targets[number].strip()]
    chosen = [usable[i * len(usable) // most] for i in range(most)] if len(usable) > most else usable
    pairs: dict[int, tuple[Segments, Segments]] = {}
    too_long = 0
    for number in chosen:
        try:
            ((source, target),) = segment_pairs(translator, [sources[number]], [targets[number]])
        except LengthError:
            too_long += 1
            continue
        if source.units and target.units:
            pairs[number] = source, target
    return pairs, too_long


# -- the reference


@torch.inference_mode()
def hiding_costs(translator: Translator, source: Segments, target: Segments) -> Float[np.ndarray, "N M"]:
    """How much log p of each group of target units falls when a group of source units is hidden from the model."""
    of_token = np.array([*source.token_groups(), -1])
    groups = int(of_token.max()) + 1
    visible = np.concatenate([np.ones((1, len(of_token)), bool), of_token != np.arange(groups)[:, None]])
    tokenizers = translator.source_tokenizer, translator.target_tokenizer
    batch = collate([source.ids], [target.ids], tokenizers=tokenizers).to(translator.device)
    falls = []
    for mask in torch.from_numpy(visible).to(translator.device).split(_ROWS):
        rows = len(mask)
        states = translator.model.decode(batch.source.expand(rows, -1), mask, batch.target_in.expand(rows, -1))
        targets = batch.target_out.expand(rows, -1).flatten()
        logprobs = forced_logprobs(translator.model.output, states.flatten(0, 1), targets)
        falls.append(logprobs.view(rows, -1).cpu().numpy())
    logprobs_of = np.concatenate(falls)[:, :-1]  # </s> is no unit
    token_groups = np.array(target.token_groups(), dtype=np.int64)
    member = token_groups[:, None] == np.arange(int(token_groups.max(initial=-1)) + 1)
    of_groups = logprobs_of @ member
    costs: np.ndarray = (of_groups[0] - of_groups[1:]).T
    return costs


def clear_links(costs: Float[np.ndarray, "N M"]) -> tuple[np.ndarray, np.ndarray]:
    """Target groups with a clear reference, and the references; none where there is no choice (M < 2)."""
    if costs.shape[1] < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ordered = np.sort(costs, axis=1)
    clear = np.flatnonzero((ordered[:, -1] >= CLEAR_FALL) & (ordered[:, -1] >= CLEAR_FACTOR * ordered[:, -2]))
    return clear, costs.argmax(1)[clear]


def _evidence(
    translator: Translator, source: Segments, target: Segments, attention: Float[np.ndarray, "L H T S"], room: int
) -> _Evidence | None:
    """What a pair says, in about ``room`` bytes: of a long pair under many heads, some of its words, evenly spread."""
    if max(source.token_groups()) < 0 or max(target.token_groups()) < 0:
        return None
    costs = hiding_costs(translator, source, target)
    clear, reference = clear_links(costs)
    if not len(clear):
        return None
    heads = attention.reshape(-1, *attention.shape[-2:])
    of_word = len(get_args(Reading)) * len(heads) * costs.shape[1] * heads.itemsize
    count = min(len(clear), max(1, room // of_word))
    kept = ((np.arange(count) + 0.5) * len(clear) / count).astype(np.int64)
    clear, reference = clear[kept], reference[kept]
    weights: dict[Reading, np.ndarray] = {}
    rest: dict[Reading, np.ndarray] = {}
    for reading in get_args(Reading):
        of_groups, of_nothing = group_weights(heads, source, target, reading)
        weights[reading], rest[reading] = of_groups[:, clear], of_nothing[:, clear]
    rows, columns = costs.shape
    diagonal = ((clear + 0.5) * columns / rows).astype(np.int64)
    return _Evidence(reference, weights, rest, diagonal, np.full(len(clear), 1 / columns))


# -- the choice


def _choose(choosing: Sequence[_Evidence], layers: int, heads: int) -> tuple[AlignmentHeads, dict[str, Any]]:
    """The best heads, and the agreement in percent of every head alone: reading → [L][H]."""
    words = sum(len(evidence.reference) for evidence in choosing)
    best: tuple[int, tuple[int, ...], Reading] = (-1, (), "write")
    table: dict[str, Any] = {}
    for reading in get_args(Reading):
        alone = _right(choosing, reading, np.arange(layers * heads)[:, None])
        table[reading] = [[_percent(int(n), words) for n in row] for row in alone.reshape(layers, heads)]
        for right, chosen in _proposals(choosing, reading, alone, layers, heads, words):
            if right > best[0]:  # in doubt what came first, which is simpler
                best = (right, chosen, reading)
    return AlignmentHeads(tuple(divmod(head, heads) for head in best[1]), best[2]), table


def _proposals(
    choosing: Sequence[_Evidence], reading: Reading, alone: np.ndarray, layers: int, heads: int, words: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Sets of heads to be considered, each with the number of words that it gets right."""
    chosen: tuple[int, ...] = (int(alone.argmax()),)
    right = int(alone.max())
    yield right, chosen
    while len(chosen) < min(MOST_HEADS, layers * heads):
        others = [head for head in range(layers * heads) if head not in chosen]
        found = _right(choosing, reading, np.array([[*chosen, head] for head in others]))
        if found.max() - right < LEAST_GAIN * words:
            break
        chosen, right = (*chosen, others[int(found.argmax())]), int(found.max())
        yield right, tuple(sorted(chosen))
    of_layers = np.arange(layers * heads).reshape(layers, heads)
    for layer, count in zip(of_layers, _right(choosing, reading, of_layers), strict=True):
        yield int(count), tuple(int(head) for head in layer)
    everything = np.arange(layers * heads)[None]
    yield int(_right(choosing, reading, everything)[0]), tuple(range(layers * heads))


def _right(half: Sequence[_Evidence], reading: Reading, candidates: np.ndarray) -> np.ndarray:
    right: np.ndarray = np.sum([evidence.right(reading, candidates) for evidence in half], axis=0)
    return right


def _agreement(half: Sequence[_Evidence], chosen: AlignmentHeads, heads: int) -> float:
    numbers = np.array([[layer * heads + head for layer, head in chosen.heads]])
    right = int(_right(half, chosen.reading, numbers)[0])
    return _percent(right, sum(len(evidence.reference) for evidence in half))


def _percent(count: int | float, total: int) -> float:
    return round(100 * count / total, 2)
