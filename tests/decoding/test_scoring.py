"""Forced scoring: in one pass and token by token."""

from __future__ import annotations

import math

import pytest
import torch
from toy_steps import BOS, EOS, Toy, ToyStep

from pellucid.decoding.scoring import force, token_logprobs


def test_token_logprobs_are_normalised_and_masked() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]], [[100.0, 100.0 - math.log(4.0)], [1.0, 2.0]]])
    targets = torch.tensor([[1, 0], [0, 1]])
    mask = torch.tensor([[True, True], [True, False]])
    expected = torch.tensor([[math.log(0.75), math.log(0.5)], [math.log(0.8), 0.0]])
    torch.testing.assert_close(token_logprobs(logits, targets, mask), expected)
    half = token_logprobs(logits.bfloat16(), targets, mask)
    assert half.dtype == torch.float32


def test_what_is_masked_may_be_anything() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.nan, math.inf]]])
    scored = token_logprobs(logits, torch.tensor([[0, 0]]), torch.tensor([[True, False]]))
    assert scored.sum().item() == pytest.approx(math.log(0.5))


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
