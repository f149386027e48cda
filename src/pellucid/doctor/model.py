"""The model that a config makes, before its first update: what it says, what it sees, and whether it can learn.

Works on a few real pairs; takes seconds. Knows nothing of the text's quality, and changes the model it is handed.
Shapes: B sentences, S source, T target, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.data.batches import Batch, collate, padded_length
from pellucid.doctor.results import Check, absent, judge
from pellucid.doctor.settings import Facts
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.loss import BLOCK_TOKENS
from pellucid.training.trainer import batch_loss

__all__ = ["available_memory", "check_model", "kept_estimate", "memory_estimate"]

BELOW, ABOVE = 0.5, 4.0
"""How far an untrained model's loss may be from ln V. Above it, because with tied embeddings a state resembles the
token it was made from, which alone adds up to 3 nats where the vocabulary is small."""
TOLERANCE = 1e-5
"""Of the largest logit: how much what must not be seen may change a result (rounding)."""
STEPS = 200
RATE = 0.01
"""Times 1/√hidden_size: Adam's learning rate for the one batch."""
SECONDS = 30.0
LEARNED, ENOUGH, BEGUN = 0.2, 0.5, 0.95
"""Parts of the first loss: where learning one batch stops; what it must come to in all steps; and what in the seconds
that there are, where the model is so large that they do not suffice for all steps."""
KNOWN = 0.5
"""A loss that is low enough whatever it was before: a trained model may begin there."""
FEW, MOST_TOKENS = 8, 40
FORBIDDEN = 200.0
"""How far below the likeliest token's logit one is that cannot be meant to be written."""


def check_model(model: EncoderDecoder, facts: Facts) -> Iterator[Check]:
    """Every check of this file; the model is on its device, with its first weights, and is changed at the end."""
    device = next(model.parameters()).device
    batch = few_pairs(facts).to(device)
    model.eval()
    yield shifted(batch)
    yield first_loss(model, batch, facts.starts_trained)
    yield sees(model, batch)
    yield causal(model, batch)
    yield padding(model, batch)
    yield gradients(model, batch)
    yield memory(model, facts)
    yield overfits(model, batch)


def few_pairs(facts: Facts) -> Batch:
    """A few pairs with different sources, of lengths that are common, without the very long and the very short."""
    train = facts.data.train
    longest = np.maximum(train.source_lengths, train.target_lengths)
    shortest = np.minimum(train.source_lengths, train.target_lengths)
    order = np.argsort(
        np.abs(longest - np.clip(np.median(longest), 3, MOST_TOKENS)) + 8 * (shortest < 2), kind="stable"
    )
    rows: list[int] = []
    seen: set[bytes] = set()
    for row in order.tolist():
        source = train.source(row).tobytes()
        if source not in seen:
            seen.add(source)
            rows.append(row)
        if len(rows) == FEW:
            break
    tokenizers = facts.data.source_tokenizer, facts.data.target_tokenizer
    return collate([train.source(row) for row in rows], [train.target(row) for row in rows], tokenizers=tokenizers)


def shifted(batch: Batch) -> Check:
    """The decoder reads ``<s> y₁ … yₘ`` and is to say ``y₁ … yₘ </s>``: never a token that it is reading."""
    mask = batch.target_mask[:, 1:]
    straight = torch.equal(batch.target_in[:, 1:][mask], batch.target_out[:, :-1][mask])
    first = bool((batch.target_in[:, 0] == batch.target_in[0, 0]).all()) and not bool(
        (batch.target_in[:, 0] == batch.target_out[:, 0]).any()
    )
    return judge(
        "teacher forcing: target shifted by one",
        not (straight and first),
        "input is <s> and the target without its last token"
        if straight and first
        else "input and output are not shifted",
        "data/batches.py: the decoder's input is not the target behind <s>, one place later than what it is to say: it "
        "would be handed the answers, or the wrong prefix: mend collate()",
        certain=True,
    )


@torch.no_grad()
def first_loss(model: EncoderDecoder, batch: Batch, trained: bool = False) -> Check:
    """−log p per token, near ln V: a model that knows nothing takes all tokens for equally probable.

    One that is ``trained`` already may know the text as well as it likes, and not be far worse than ignorant.
    """
    loss = batch_loss(model, batch)[1].item() / batch.num_tokens
    expected = math.log(model.target_vocab_size)
    lowest = 0.0 if trained else expected - BELOW
    good = lowest <= loss <= expected + ABOVE
    if trained:
        return judge(
            "loss of the model to start from",
            not good,
            f"{loss:.2f}; ln V = {expected:.2f} (at most {expected + ABOVE:.2f})",
            f"the loss of the model to start from (training.init_from) is {loss:.2f} a token, far above ln of its "
            f"{model.target_vocab_size:,} tokens, {expected:.2f}, which is what chance gives: it is a model of other "
            "languages or the other direction, or its weights are damaged: translate a few of data.dev's sources with "
            "it",
            certain=not math.isfinite(loss),
        )
    cause = (
        "it knows the answers before it has learned anything: a target token is seen where it is to be predicted"
        if loss < expected - BELOW
        else "its weights are initialised far too large, or its logits scaled wrongly"
    )
    return judge(
        "loss of the untrained model",
        not good,
        f"{loss:.2f}; ln V = {expected:.2f} (allowed {expected - BELOW:.2f} to {expected + ABOVE:.2f})",
        f"the untrained model's loss is {loss:.2f} a token and ln of its {model.target_vocab_size:,} tokens is "
        f"{expected:.2f}: {cause}: look at model.scale_embeddings, scale_output, norm and at the initialisation",
        certain=not math.isfinite(loss),
    )


@torch.no_grad()
def sees(model: EncoderDecoder, batch: Batch) -> Check:
    """Another source changes the logits; so does its order, unless positions are off."""
    before = model(batch.source, batch.source_mask, batch.target_in)
    rolled = batch.source.roll(1, 0), batch.source_mask.roll(1, 0)
    other = _deviation(model(*rolled, batch.target_in), before, batch.target_mask)
    turned = batch.source.clone()
    for row, length in enumerate(batch.source_mask.sum(1).tolist()):
        turned[row, : length - 1] = batch.source[row, : length - 1].flip(0)
    order = _deviation(model(turned, batch.source_mask, batch.target_in), before, batch.target_mask)
    blind = batch.source.shape[0] > 1 and other < TOLERANCE
    same = torch.equal(turned, batch.source) or model.config.positions == "none"
    return judge(
        "source and its order reach the output",
        blind or (not same and order < TOLERANCE),
        f"another source changes logits by {other:.1e}, another order by {order:.1e} of the largest",
        f"{'another source' if blind else 'another order of the source'} changes no logit by more than {TOLERANCE:g} "
        f"of the largest: the decoder does not see {'the encoder' if blind else 'positions'}: look at cross-attention "
        "and at model.positions",
        certain=blind,
    )


@torch.no_grad()
def causal(model: EncoderDecoder, batch: Batch) -> Check:
    """Changing later target tokens changes no earlier logit (the contract's item 9)."""
    name = "causal mask"
    length = batch.target_in.shape[1]
    if length < 2:
        return absent(name, "targets of one token")
    before = model(batch.source, batch.source_mask, batch.target_in)
    worst, place = 0.0, 0
    for cut in sorted({1, length // 2, length - 1}):
        changed = batch.target_in.clone()
        changed[:, cut:] = _others(changed[:, cut:], batch, model.target_vocab_size)
        after = model(batch.source, batch.source_mask, changed)
        difference = _deviation(after[:, :cut], before[:, :cut], torch.ones_like(changed[:, :cut], dtype=torch.bool))
        if not difference <= worst:
            worst, place = difference, cut
    return judge(
        name,
        not worst <= TOLERANCE,
        f"later tokens change earlier logits by {worst:.1e} of the largest (at most {TOLERANCE:g})",
        f"changing the target from token {place + 1} on changes logits before it by {worst:.1e} of the largest (at "
        f"most {TOLERANCE:g}): the decoder sees what it is to predict, and would be useless in generation: mend the "
        "causal mask",
        certain=True,
    )


@torch.no_grad()
def padding(model: EncoderDecoder, batch: Batch) -> Check:
    """A sentence alone and among longer ones has the same logits."""
    wide = _padded(batch, 7)
    together = model(wide.source, wide.source_mask, wide.target_in)
    worst = 0.0
    for row in range(batch.source.shape[0]):
        source = batch.source[row : row + 1, : int(batch.source_mask[row].sum())]
        target = batch.target_in[row : row + 1, : int(batch.target_mask[row].sum())]
        alone = model(source, torch.ones_like(source, dtype=torch.bool), target)
        found = together[row : row + 1, : target.shape[1]]
        difference = _deviation(found, alone, torch.ones_like(target, dtype=torch.bool))
        worst = difference if not difference <= worst else worst
    return judge(
        "padding mask",
        not worst <= TOLERANCE,
        f"padding changes logits by {worst:.1e} of the largest (at most {TOLERANCE:g})",
        f"a sentence's logits change by {worst:.1e} of the largest when padding stands behind it (at most "
        f"{TOLERANCE:g}): padding is attended to, so that results depend on the batch: mend the padding mask",
        certain=True,
    )


def gradients(model: EncoderDecoder, batch: Batch) -> Check:
    """Every parameter that is to be trained gets a gradient, a finite one."""
    model.zero_grad(set_to_none=True)
    loss, _ = batch_loss(model, batch)
    (loss / batch.num_tokens).backward()
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    frozen = sum(1 for _ in model.parameters()) - len(trained)
    without = [name for name, parameter in trained if not _receives(name, parameter.grad)]
    model.zero_grad(set_to_none=True)
    return judge(
        "every parameter gets a gradient",
        bool(without) or not trained,
        f"{len(trained) - len(without)} of {len(trained)} tensors" + (f", {frozen} more are frozen" if frozen else ""),
        f"{len(without)} of {len(trained)} tensors to be trained get no gradient, or one that is not finite: "
        f"{', '.join(without[:5])}{', …' if len(without) > 5 else ''}: they would stay as they are: they are not part "
        "of the computation, or cut off from it",
    )


def _receives(name: str, gradient: Tensor | None) -> bool:
    if gradient is None or not bool(gradient.isfinite().all()):
        return False
    # The same number added to all scores of a query changes no attention weight: this gradient is 0 but for rounding.
    # And what an adapter's A gets has passed B, which is 0 before the first update.
    return bool(gradient.any()) or name.endswith(("key.bias", "lora_a.weight"))


def overfits(model: EncoderDecoder, batch: Batch) -> Check:
    """A few pairs can be learned by heart, with Adam at a rate of its own and without dropout."""
    rate = RATE / model.config.hidden_size**0.5
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.98))
    start = time.perf_counter()
    loss = _token_loss(model, batch)
    first = best = loss.item()
    # What is frozen cannot learn, so that the rest has only to begin.
    part = ENOUGH if all(parameter.requires_grad for parameter in model.parameters()) else BEGUN
    steps, late = 0, False
    while steps < STEPS and not late and best > LEARNED * first and math.isfinite(loss.item()):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        steps += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, steps / 10)
        optimizer.step()
        loss = _token_loss(model, batch)
        best = min(best, loss.item())
        if time.perf_counter() - start > SECONDS:
            part, late = BEGUN, True
    expected = max(part * first, KNOWN)
    return judge(
        "one batch can be learned by heart",
        not best <= expected,
        f"loss {first:.2f} → {best:.2f} in {steps} steps (at least to {expected:.2f})",
        f"{steps} steps on the same {batch.source.shape[0]} pairs bring the loss only from {first:.2f} to {best:.2f}, "
        f"{expected:.2f} is expected: this model cannot learn even by heart: look at positions, masks and sizes",
    )


def _token_loss(model: EncoderDecoder, batch: Batch) -> Tensor:
    return batch_loss(model, batch)[0] / batch.num_tokens


def memory(model: EncoderDecoder, facts: Facts) -> Check:
    """What the largest batch takes, beside what the device has free."""
    free = available_memory(next(model.parameters()).device)
    rows, source, target = _largest(facts)
    needed = memory_estimate(model, facts, rows, source, target)
    training = facts.config.training
    figure = f"largest batch {rows:,} × {source:,} + {target:,} tokens: about {needed / 2**30:.2f} GiB"
    return judge(
        "memory of the largest batch",
        free is not None and needed > free,
        figure if free is None else f"{figure}, {free / 2**30:.1f} free",
        f"the largest batch ({rows:,} pairs of up to {source:,} and {target:,} tokens) takes about "
        f"{needed / 2**30:.1f} GiB and {0 if free is None else free / 2**30:.1f} GiB are free: lower "
        f"training.batch_tokens ({training.batch_tokens:,}) and raise accumulate by the same factor, or lower "
        "data.max_source_tokens and data.max_target_tokens",
    )


def _largest(facts: Facts) -> tuple[int, int, int]:
    """Rows and padded widths of the batch with most cells."""
    train = facts.data.train
    limits = train.max_source_tokens + 1, train.max_target_tokens + 1
    shapes = []
    for rows in facts.plan:
        widths = np.array([int(side[rows].max()) + 1 for side in (train.source_lengths, train.target_lengths)])
        padded = np.maximum(widths, np.minimum(padded_length(widths), limits)).tolist()
        shapes.append((len(rows), padded[0], padded[1]))
    return max(shapes, key=lambda shape: shape[0] * (shape[1] + shape[2]))


def memory_estimate(model: EncoderDecoder, facts: Facts, rows: int, source: int, target: int) -> int:
    """Bytes of weights, gradients, Adam's moments, and what is kept for the backward pass of such a batch, in float32.

    With R-Drop, which reads a batch twice, it keeps twice as much.
    """
    passes = 2 if facts.config.training.r_drop else 1
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    copies = 3 + bool(facts.config.training.ema_decay)  # its gradient, two moments
    vocabulary = 4 * model.target_vocab_size
    block = 3 * min(BLOCK_TOKENS, passes * rows * target) * vocabulary + model.config.hidden_size * vocabulary
    return weights + copies * trained + kept_estimate(model, facts, passes * rows, source, target) + block


def kept_estimate(model: EncoderDecoder, facts: Facts, rows: int, source: int, target: int) -> int:
    """Bytes that a batch keeps for its backward pass, in float32.

    Counted of one row and of two while they are computed: the difference is every further row's, the rest belongs to
    the batch as a whole (matrices that are put side by side).
    """
    one, two = (_kept_bytes(model, facts, count, source, target) for count in (1, 2))
    return one + (rows - 1) * (two - one)


def _kept_bytes(model: EncoderDecoder, facts: Facts, rows: int, source: int, target: int) -> int:
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(model.parameters()).device
    train = facts.data.train
    tokens, prefix = (
        torch.full((rows, length), int(side[0]), dtype=torch.int64, device=device)
        for length, side in ((source, train.source(0)), (target, train.target(0)))
    )
    training = model.training
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()
        states = model.decode(tokens, torch.ones_like(tokens, dtype=torch.bool), prefix)
    del states
    model.train(training)
    return sum(kept.values())


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _deviation(found: Tensor, expected: Tensor, where: Tensor) -> float:
    """Largest difference of logits, in units of the largest; not a number where they are none.

    Without tokens that a bias forbids (Marian's padding): next to their logits any other is small.
    """
    before, after = expected[where], found[where]
    possible = ~(before < before.amax(-1, keepdim=True) - FORBIDDEN)
    largest = float(before[possible].abs().max())
    return float((after - before)[possible].abs().max()) / largest if largest else math.nan


def _others(tokens: Tensor, batch: Batch, vocab_size: int) -> Tensor:
    """Another token for each, by the order of their numbers: neither padding nor what a target begins with."""
    special = {batch.target_pad, int(batch.target_in[0, 0])}
    ordinary = torch.tensor([n for n in range(vocab_size) if n not in special] or [0], device=tokens.device)
    return ordinary[torch.searchsorted(ordinary, tokens.contiguous(), right=True) % len(ordinary)]


def _padded(batch: Batch, more: int) -> Batch:
    def widen(tokens: Tensor, pad: int) -> Tensor:
        return torch.nn.functional.pad(tokens, (0, more), value=pad)

    changes: dict[str, Any] = {
        "source": widen(batch.source, batch.source_pad),
        "target_in": widen(batch.target_in, batch.target_pad),
        "target_out": widen(batch.target_out, batch.target_pad),
    }
    return dataclasses.replace(batch, **changes)
