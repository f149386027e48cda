"""Parameter groups, the learning rate's course, the average of the weights."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.config import ModelConfig, TrainingConfig
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.optimizer import WeightAverage, learning_rate, make_optimizer

SCHEDULES = ["inverse_sqrt", "cosine", "linear", "constant"]


def make_model(**settings: Any) -> EncoderDecoder:
    sizes = dict(hidden_size=8, num_heads=2, ff_size=12, encoder_layers=1, decoder_layers=2, max_positions=6)
    return EncoderDecoder(ModelConfig(**{**sizes, **settings}), 9, 9)


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
@pytest.mark.parametrize("tied", ["three", "two", "inputs", "none"])
def test_the_groups_hold_every_parameter_once_and_decay_the_right_ones(
    positions: str, norm: str, activation: str, tied: str
) -> None:
    rest = dict(tied_embeddings=tied, embedding_norm=True, output_bias=True)
    model = make_model(positions=positions, norm=norm, activation=activation, **rest)
    optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.3))
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for number, name in names.items():
        bare = ("bias", "norm.weight", "embedding.weight", "positions.table")
        assert decay[number] == (0.0 if name.endswith(bare) else 0.3), name
    assert sum(value > 0 for value in decay.values()) == 3 * (3 if activation == "swiglu" else 2) + 5 * 4 + (
        tied in ("none", "inputs")
    )


def test_frozen_parameters_are_left_out() -> None:
    model = make_model()
    model.output.weight.requires_grad_(False)
    optimizer = make_optimizer(model, TrainingConfig())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()} - {id(model.output.weight)}


def test_the_step_is_that_of_adamw_with_these_settings() -> None:
    config = TrainingConfig(
        learning_rate=0.1, adam_beta1=0.8, adam_beta2=0.7, adam_epsilon=0.5, weight_decay=0.3, max_updates=1
    )
    model = nn.Linear(3, 2)
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    optimizer = make_optimizer(model, config)
    gradients = [(torch.randn(2, 3), torch.randn(2)) for _ in range(3)]
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in (weight, bias)]
    for t, gradient in enumerate(gradients, 1):
        model.weight.grad, model.bias.grad = (g.clone() for g in gradient)
        optimizer.step()
        for value, g, (first, second), decay in zip((weight, bias), gradient, moments, (0.3, 0.0), strict=True):
            first.mul_(0.8).add_(g, alpha=0.2)
            second.mul_(0.7).add_(g * g, alpha=0.3)
            value.mul_(1 - 0.1 * decay)
            value.sub_(0.1 * (first / (1 - 0.8**t)) / ((second / (1 - 0.7**t)).sqrt() + 0.5))
    assert torch.allclose(model.weight, weight, atol=1e-6)
    assert torch.allclose(model.bias, bias, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_is_linear_from_the_first_update_to_the_highest_rate(schedule: Any) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=0.5, warmup_steps=10)
    rates = [learning_rate(config, update, 100) for update in range(1, 11)]
    assert rates == pytest.approx([0.05 * update for update in range(1, 11)])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_after_the_warm_up_the_rate_never_rises_nor_jumps(schedule: Any, warmup: int) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=0.5, warmup_steps=warmup)
    rates = [learning_rate(config, update, 1000) for update in range(max(1, warmup), 1001)]
    assert rates[0] == pytest.approx(0.5, rel=2e-3)
    for before, after in itertools.pairwise(rates[9:]):
        assert 0.0 < before * 0.9 < after <= before * (1 + 1e-12)


@pytest.mark.parametrize(
    ("schedule", "update", "share"),
    [
        ("constant", 10, 1.0),
        ("constant", 110, 1.0),
        ("inverse_sqrt", 40, 0.5),
        ("inverse_sqrt", 1000, 0.1),
        ("linear", 60, 0.6),
        ("linear", 110, 0.2),
        ("linear", 200, 0.2),
        ("cosine", 35, 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 60, 0.6),
        ("cosine", 110, 0.2),
        ("cosine", 200, 0.2),
    ],
)
def test_the_course_of_each_schedule(schedule: Any, update: int, share: float) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=0.25, warmup_steps=10, final_learning_rate=0.2)
    assert learning_rate(config, update, 110) == pytest.approx(0.25 * share)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_shorter_than_its_warm_up_only_warms_up(schedule: Any) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(config, update, 4) for update in (1, 4)] == [0.1, 0.4]


def test_without_warm_up_inverse_sqrt_starts_at_the_highest_rate() -> None:
    config = TrainingConfig(schedule="inverse_sqrt", learning_rate=1.0, warmup_steps=0)
    assert [learning_rate(config, update, 10) for update in (1, 4, 9)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_the_average_follows_its_formula() -> None:
    model = make_model()
    average = WeightAverage(model, 0.5)
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = first
    for update in range(1, 15):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = {name: decay * expected[name] + (1 - decay) * p.detach() for name, p in model.named_parameters()}
    assert (1 + 7) / (10 + 7) < 0.5 < (1 + 9) / (10 + 9)  # both branches of the decay were taken
    for name, value in average.weights.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
        assert not value.requires_grad
    assert average.weights.keys() == first.keys()


def test_the_average_starts_as_a_copy_and_can_go_on_from_a_saved_one() -> None:
    model = make_model()
    average, other = WeightAverage(model, 0.9), WeightAverage(model, 0.9)
    for name, parameter in model.named_parameters():
        assert torch.equal(average.weights[name], parameter)
        assert average.weights[name].data_ptr() != parameter.data_ptr()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update(model, 1)
    other.load({name: value.clone() for name, value in average.weights.items()})
    for update in (2, 3):
        average.update(model, update)
        other.update(model, update)
    assert all(torch.equal(average.weights[name], other.weights[name]) for name in average.weights)
