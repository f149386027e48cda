"""Settings that fit neither each other nor the data. Arithmetic on lengths and settings alone: no text, no model.

The bounds are wide: what any published recipe for a Transformer uses is inside, and what is outside has to be meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pellucid.config import Config
from pellucid.data.batches import plan_dataset
from pellucid.data.prepare import PreparedData
from pellucid.doctor.results import Check, absent, judge, percent

__all__ = ["Facts", "check_settings"]

MAX_RATE = 0.16
"""Highest learning rate, times √hidden_size (0.01 at 256): Adam's steps are as long as the rate says, and weights start
at about 1/√hidden_size."""
MIN_RATE = 1e-5
MIN_TUNING_RATE = 1e-7
"""Of a run that starts from a trained model: 5e-6 and less are usual there."""
MIN_SENTENCES, MIN_TOKENS = 8, 100
"""An update's gradient should be of more than a few sentences."""
CUT = 0.02
"""Share of dev's references that the length limit may cut."""
USES = 8
"""Tokens of the training text for each entry of the vocabulary: with fewer, most entries are hardly ever trained."""
REPEATS = 0.02


@dataclass(frozen=True)
class Facts:
    """A run before it starts.

    Attributes:
        config: its settings.
        data: its text.
    """

    config: Config
    data: PreparedData

    @cached_property
    def plan(self) -> list[np.ndarray]:
        """The first epoch's batches."""
        return plan_dataset(self.data.train, self.config.training.batch_tokens, self.config.seed, 0)

    @property
    def starts_trained(self) -> bool:
        """Whether the whole model has been trained before."""
        return self.config.training.init_from is not None

    @property
    def tunes(self) -> bool:
        """Whether any part of the model has been trained before."""
        return self.starts_trained or self.config.training.encoder_from is not None

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        training = self.config.training
        limits = [] if training.max_updates is None else [training.max_updates]
        if training.max_epochs is not None:
            limits.append(max(1, len(self.plan) * training.max_epochs // training.accumulate))
        return min(limits)

    @property
    def validate_every(self) -> int:
        """Updates between two validations."""
        return self.config.training.validate_every or max(1, len(self.plan) // self.config.training.accumulate)


def check_settings(facts: Facts) -> Iterator[Check]:
    """Every check of this file."""
    yield from (check(facts) for check in (_rate, _warmup, _batch, _budget, _regularisation, _r_drop, _sampling))
    yield from (check(facts) for check in (_adam, _average, _validation, _order))
    yield _vocabulary(facts)
    yield from _limits(facts)
    yield _repetition(facts)


def _rate(facts: Facts) -> Check:
    rate, width = facts.config.training.learning_rate, facts.config.model.hidden_size
    highest = MAX_RATE / width**0.5
    high = rate > highest
    lowest, usual = (MIN_TUNING_RATE, "0.00001 to 0.0005") if facts.tunes else (MIN_RATE, "0.0005 to 0.003")
    return judge(
        "learning rate",
        high or rate < lowest,
        f"{rate:g} (allowed {lowest:g} to {highest:.2g})",
        f"training.learning_rate = {rate:g} is {'above' if high else 'below'} what trains a model of this width: "
        + (
            f"at hidden_size {width}, Adam diverges or learns nothing above about {highest:.2g}: take {usual}"
            if high
            else f"the weights hardly move below {lowest:g}: take {usual}"
        ),
    )


def _warmup(facts: Facts) -> Check:
    warmup, total = facts.config.training.warmup_steps, facts.total_updates
    return judge(
        "warm-up inside the run",
        warmup >= total,
        f"{warmup:,} of {total:,} updates",
        f"training.warmup_steps = {warmup:,} is not shorter than the run of {total:,} updates, so that learning_rate "
        f"is never reached: lower it (a tenth of the run is usual: {max(1, total // 10):,}), or raise max_updates or "
        "max_epochs",
    )


def _batch(facts: Facts) -> Check:
    training, train = facts.config.training, facts.data.train
    updates = len(facts.plan) / training.accumulate
    sentences = len(train) / updates
    tokens = (int(train.target_lengths.sum()) + len(train)) / updates
    # A corpus of few pairs makes one batch of all of them; no setting makes it larger.
    bad = updates > 1 and (sentences < MIN_SENTENCES or tokens < MIN_TOKENS)
    return judge(
        "size of an update",
        bad,
        f"{sentences:,.0f} pairs, {tokens:,.0f} target tokens (at least {MIN_SENTENCES}, {MIN_TOKENS})",
        f"training.batch_tokens = {training.batch_tokens:,} with accumulate = {training.accumulate} gives an update "
        f"only {sentences:.1f} pairs ({tokens:.0f} target tokens) on average, at least {MIN_SENTENCES} and "
        f"{MIN_TOKENS} are needed for a gradient that is no noise: raise batch_tokens (2,048 to 8,192 is usual) or "
        "accumulate",
    )


def _budget(facts: Facts) -> Check:
    longest = np.maximum(facts.data.train.source_lengths, facts.data.train.target_lengths) + 1
    budget = facts.config.training.batch_tokens
    over = int((longest > budget).sum())
    row = int(longest.argmax())
    return judge(
        "longest pair inside a batch",
        over > 0,
        f"{int(longest.max()):,} tokens (line {facts.data.train.line(row):,}), batch_tokens {budget:,}",
        f"{over:,} pairs of train are longer than training.batch_tokens = {budget:,} (the longest: {longest.max():,} "
        f"tokens, {facts.data.train.place(row)}): each makes a batch of its own that is larger than the budget: "
        "raise batch_tokens, or lower data.max_source_tokens and data.max_target_tokens",
    )


def _regularisation(facts: Facts) -> Check:
    model, training = facts.config.model, facts.config.training
    highest = {
        "model.dropout": (model.dropout, 0.5),
        "model.attention_dropout": (model.attention_dropout, 0.5),
        "model.ff_dropout": (model.ff_dropout, 0.5),
        "training.label_smoothing": (training.label_smoothing, 0.3),
    }
    over = [f"{name} = {value:g} (at most {limit:g})" for name, (value, limit) in highest.items() if value > limit]
    # Decoupled decay takes this share off every weight in each update (Loshchilov & Hutter 2019).
    decay = training.learning_rate * training.weight_decay
    if training.weight_decay > 0.1 and decay > 1e-3:
        over.append(f"weight_decay = {training.weight_decay:g} (learning_rate · weight_decay at most 0.001)")
    return judge(
        "dropout, smoothing, decay",
        bool(over),
        f"dropout {model.dropout:g}, label smoothing {training.label_smoothing:g}, decay {training.weight_decay:g}",
        f"{'; '.join(over)}: the model is kept from learning at all: lower it (dropout 0.1 to 0.3, label_smoothing "
        "0.1, weight_decay 0.01 are usual)",
    )


def _r_drop(facts: Facts) -> Check:
    model, weight = facts.config.model, facts.config.training.r_drop
    name = "R-Drop has dropout to compare"
    if not weight:
        return absent(name, "off")
    # Everything that the two readings of a batch draw, each for itself.
    shares = (model.dropout, model.attention_dropout, model.ff_dropout, model.word_dropout)
    return judge(
        name,
        not any(shares),
        f"r_drop {weight:g}, dropouts {', '.join(f'{share:g}' for share in shares)}",
        f"training.r_drop = {weight:g} reads each batch twice with other dropout, and model.dropout, "
        "attention_dropout, ff_dropout and word_dropout are all 0: both readings are the same, at twice the cost: set "
        "model.dropout (0.1 to 0.3 is usual), or r_drop to 0",
    )


def _sampling(facts: Facts) -> Check:
    training, total = facts.config.training, facts.total_updates
    name = "scheduled sampling inside the run"
    if not training.scheduled_sampling:
        return absent(name, "off")
    start = training.scheduled_sampling_start
    return judge(
        name,
        start >= total,
        f"from update {start + 1:,} of {total:,} on",
        f"training.scheduled_sampling_start = {start:,} is not before the end of the run of {total:,} updates, so that "
        "no token is ever replaced: lower it, raise max_updates or max_epochs, or set scheduled_sampling to 0",
    )


def _adam(facts: Facts) -> Check:
    training = facts.config.training
    beta1, beta2, epsilon = training.adam_beta1, training.adam_beta2, training.adam_epsilon
    norm = training.max_grad_norm
    over = []
    if not beta1 < beta2:
        over.append(f"adam_beta1 = {beta1:g} is not below adam_beta2 = {beta2:g}")
    if beta2 < 0.9:
        over.append(f"adam_beta2 = {beta2:g} (at least 0.9)")
    if epsilon > 1e-4:
        over.append(f"adam_epsilon = {epsilon:g} (at most 0.0001)")
    if norm is not None and norm < 0.01:
        over.append(f"max_grad_norm = {norm:g} (at least 0.01)")
    return judge(
        "optimiser",
        bool(over),
        f"betas {beta1:g}, {beta2:g}, epsilon {epsilon:g}, clipping {'off' if norm is None else f'{norm:g}'}",
        f"training: {'; '.join(over)}: updates would be noise, or vanish: take adam_beta1 0.9, adam_beta2 0.98, "
        "adam_epsilon 1e-9, max_grad_norm 1",
    )


def _average(facts: Facts) -> Check:
    decay, total = facts.config.training.ema_decay, facts.total_updates
    if not decay:
        return absent("averaged weights", "off")
    span = 1 / (1 - decay)
    return judge(
        "averaged weights",
        2 * span > total,
        f"over about {span:,.0f} of {total:,} updates",
        f"training.ema_decay = {decay:g} averages the weights of about {span:,.0f} updates and the run has {total:,}: "
        f"the model that is validated and kept lags behind what was learned: at most {1 - 2 / max(total, 3):.4g} fits, "
        "or 0",
    )


def _validation(facts: Facts) -> Check:
    training, total = facts.config.training, facts.total_updates
    every = facts.validate_every
    first = max(every, -(-training.validate_after // every) * every)
    patience = training.patience
    early = patience is not None and first + patience * every < training.warmup_steps
    figure = f"every {every:,}, from update {min(first, total):,} on"
    if early:
        return Check(
            "validation",
            "suspicious",
            figure,
            f"training.patience = {patience} with a validation every {every:,} updates can end the run at update "
            f"{first + (patience or 0) * every:,}, before warmup_steps = {training.warmup_steps:,} is over: raise "
            "patience or validate_every, or set validate_after",
        )
    return judge(
        "validation",
        first > total and total > 1,
        figure,
        f"the first validation would be at update {first:,} (training.validate_every, validate_after) and the run has "
        f"{total:,} updates: only its last state is validated, and best/ is no choice: lower them",
    )


def _order(facts: Facts) -> Check:
    positions = facts.config.model.positions
    return judge(
        "word order is seen",
        positions == "none",
        f"positions: {positions}",
        "model.positions = none: to the encoder the words of a sentence have no order, so that it cannot tell who bit "
        "whom: take sinusoidal, learned, rotary or relative, unless that is what the run is to show",
    )


def _vocabulary(facts: Facts) -> Check:
    data = facts.data
    train, joint = data.train, data.source_tokenizer is data.target_tokenizer
    name = "vocabulary for this much text"
    if facts.starts_trained:
        return absent(name, "the model to start from has it")
    tokens = int(train.source_lengths.sum()), int(train.target_lengths.sum())
    sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
    uses = [sum(tokens) / sizes[0]] if joint else [count / size for count, size in zip(tokens, sizes, strict=True)]
    if facts.config.training.encoder_from is not None:  # the source's comes with the encoder
        uses[0] = float("inf")
    size = sizes[uses.index(min(uses))]
    learned = facts.config.tokenizer.kind == "sentencepiece" and size > 512
    return judge(
        name,
        learned and min(uses) < USES,
        f"{size:,} entries, {min(uses):,.1f} training tokens each (at least {USES})",
        f"tokenizer.vocab_size gives {size:,} entries and the training text has {min(uses):.1f} tokens for each, at "
        f"least {USES} are needed: most would hardly ever be trained: lower it to about "
        f"{max(300, int(size * min(uses) / (400 * USES)) * 100):,}, or train on more text",
    )


def _limits(facts: Facts) -> Iterator[Check]:
    decoding, dev = facts.config.decoding, facts.data.dev
    sources, targets = dev.source_lengths.astype(np.int64) + 1, dev.target_lengths.astype(np.int64) + 1
    limits = np.array([decoding.limit(int(source)) for source in sources])
    long = np.flatnonzero(targets > limits)
    setting = (
        f"decoding.max_length = {decoding.max_length}"
        if decoding.max_length is not None
        else f"decoding.max_length_ratio = {decoding.max_length_ratio:g} with max_length_extra = "
        f"{decoding.max_length_extra}"
    )
    yield judge(
        "length limit reaches dev's references",
        len(long) > CUT * len(dev),
        f"{percent(len(long), len(dev))} longer than the limit (at most {CUT:.0%})",
        f"{len(long):,} of {len(dev):,} references of dev ({percent(len(long), len(dev))}, first: "
        f"{dev.place(int(long[0]) if len(long) else 0)}) are longer than {setting} lets generation become: their "
        f"translations would be cut: raise it, the longest reference has {targets.max():,} tokens",
    )
    short = np.flatnonzero(targets < decoding.min_length + 1)
    yield judge(
        "minimum length lets dev's references be",
        len(short) > CUT * len(dev),
        f"{percent(len(short), len(dev))} shorter than the minimum (at most {CUT:.0%})",
        f"{len(short):,} of {len(dev):,} references of dev (first: {dev.place(int(short[0]) if len(short) else 0)}) "
        f"are shorter than decoding.min_length = {decoding.min_length}: translations would be drawn out: lower it",
    )


def _repetition(facts: Facts) -> Check:
    size, dev = facts.config.decoding.no_repeat_ngram, facts.data.dev
    penalty = facts.config.decoding.repetition_penalty
    name = "references obey the rules on repetition"
    if penalty > 2:
        return Check(
            name,
            "suspicious",
            f"repetition_penalty {penalty:g}",
            f"decoding.repetition_penalty = {penalty:g}: above 2 hardly any word can come twice, articles and full "
            "stops too: take 1 to 1.3",
        )
    if not size:
        return absent(name, "no such rule")
    broken = [i for i in range(len(dev)) if _has_twice(dev.target(i).tolist(), size)]
    return judge(
        name,
        len(broken) > REPEATS * len(dev),
        f"{percent(len(broken), len(dev))} repeat {size} tokens (at most {REPEATS:.0%})",
        f"{len(broken):,} of {len(dev):,} references of dev (first: {dev.place(broken[0] if broken else 0)}) have "
        f"{size} tokens twice, which decoding.no_repeat_ngram = {size} forbids: raise it (4 or more), or set it to 0",
    )


def _has_twice(tokens: list[int], size: int) -> bool:
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return len(set(grams)) < len(grams)
