"""Forced scoring: in one pass and token by token."""

from __future__ import annotations

import math

import pytest
import torch
from toy_steps import BOS, EOS, Toy, ToyStep

from pellucid.decoding import scoring
from pellucid.decoding.scoring import force, forced_logprobs


def test_forced_logprobs_are_normalised() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0], [100.0, 100.0 - math.log(4.0)]])
    expected = torch.tensor([math.log(0.75), math.log(0.5), math.log(0.8)])
    targets = torch.tensor([1, 0, 0])
    torch.testing.assert_close(forced_logprobs(lambda states: states, logits, targets), expected)
    assert forced_logprobs(lambda states: states.bfloat16(), logits, targets).dtype == torch.float32
    assert forced_logprobs(lambda states: states, logits[:0], targets[:0]).shape == (0,)


def test_only_some_logits_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    states, targets = torch.randn(50, 8), torch.arange(50) % 30
    weight = torch.randn(8, 30)
    whole = forced_logprobs(lambda part: part @ weight, states, targets)
    seen: list[int] = []

    def output(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part @ weight

    monkeypatch.setattr(scoring, "MOST_LOGITS", 210)
    torch.testing.assert_close(forced_logprobs(output, states, targets), whole)
    assert max(seen) == 7


def test_force_feeds_what_it_is_given() -> None:
    toy = Toy(3, 7, sharpness=3.0)
    targets = [[4, 5, EOS], [], [EOS], [6, 6, 6, 6, 6], [5, EOS]]
    step = ToyStep(toy, range(5), 7)
    scored = force(step, targets, bos_id=BOS)
    expected = [
        [float(toy(sentence, tuple(target[:position]))[token]) for position, token in enumerate(target)]
        for sentence, target in enumerate(targets)
    ]
    assert scored == expected
    assert step.calls == ["select", "step", "select", "step", "select", "step", "select", "step", "step"]


def test_force_without_targets() -> None:
    assert force(ToyStep(Toy(), [], 6), [], bos_id=BOS) == []
    assert force(ToyStep(Toy(), [0], 6), [[]], bos_id=BOS) == [[]]
