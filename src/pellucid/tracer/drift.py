"""Exposure bias, made visible: one wrong token in the prefix, and what the model makes of it.

Shapes: T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.tracer.subject import Subject
from pellucid.tracing.document import Drift
from pellucid.tracing.request import Corruption

__all__ = ["drift"]


def drift(
    subject: Subject,
    ids: Sequence[int],
    clean_logp: list[float],
    logprobs: Float[Tensor, "T V"],
    asked: Corruption | None,
) -> Drift | None:
    """Replace one token of the target, score what follows it, and let the model go on from there; None where T < 3.

    Args:
        subject: the source.
        ids: the target.
        clean_logp: log p of its tokens.
        logprobs: of all tokens at each step, for choosing a likely wrong one.
        asked: which token, and where; default: chosen.

    Raises:
        ConfigError: ``asked`` names a row or a token that there is not, or the token that stands there.
    """
    if asked is None and len(ids) < 3:
        return None
    at, token = _chosen(subject, ids, logprobs) if asked is None else (asked.at, asked.token)
    _check(subject, ids, at, token)
    wrong = [*ids[:at], token, *ids[at + 1 :]]
    found = subject.decode(subject.target_in(wrong)).float()
    gold = torch.tensor(wrong, device=found.device)
    logp = found.log_softmax(-1).gather(1, gold[:, None])[:, 0].tolist()
    right = (found.argmax(-1) == gold).tolist()
    rejoins = len(ids)
    while rejoins > at + 1 and right[rejoins - 1]:
        rejoins -= 1
    written = _go_on(subject, wrong[: at + 1])
    whole = [*ids[:at], *written]
    return Drift(
        at=at,
        original=subject.target_token(ids[at]),
        replaced=subject.target_token(token),
        clean_logp=clean_logp,
        logp=logp,
        written=subject.target_tokens(written),
        text=subject.text_of(whole),
        rejoins=rejoins if rejoins < len(ids) else None,
    )


def _chosen(subject: Subject, ids: Sequence[int], logprobs: Tensor) -> tuple[int, int]:
    """A row near a third of the target, and the most probable other token there."""
    at = min(max(len(ids) // 3, 1), len(ids) - 2)
    tokenizer = subject.translator.target_tokenizer
    row = logprobs[at].clone()
    row[[ids[at], tokenizer.eos_id, *tokenizer.suppressed_ids]] = -torch.inf
    return at, int(row.argmax())


def _check(subject: Subject, ids: Sequence[int], at: int, token: int) -> None:
    if at >= len(ids) - 1:
        raise ConfigError(
            f"corrupt: row {at} has nothing behind it: this target has {len(ids)} tokens, choose a row before the last"
        )
    if token >= subject.model.target_vocab_size:
        raise ConfigError(
            f"corrupt: there is no token {token}: the vocabulary's numbers end at {subject.model.target_vocab_size - 1}"
        )
    if token in (ids[at], subject.translator.target_tokenizer.eos_id):
        raise ConfigError("corrupt: choose another token than the one that stands there, and not </s>")


def _go_on(subject: Subject, prefix: list[int]) -> list[int]:
    """What greedy search writes behind the prefix, with the prefix's last token in front."""
    tokenizer, model = subject.translator.target_tokenizer, subject.model
    limit = subject.config.limit(int(subject.mask.sum()))
    limit = min(limit, model.decoder.embedder.positions.max_length or limit)
    cache = model.start_cache(subject.memory, subject.mask)
    suppressed = list(tokenizer.suppressed_ids)
    device = subject.source.device
    for token in [tokenizer.bos_id, *prefix[:-1]]:
        model.step(torch.tensor([token], device=device), cache)
    written = [prefix[-1]]
    while len(prefix) + len(written) - 1 < limit and written[-1] != tokenizer.eos_id:
        logits = model.step(torch.tensor([written[-1]], device=device), cache)[0]
        logits[suppressed] = -torch.inf
        written.append(int(logits.argmax()))
    return written
