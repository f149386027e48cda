"""The attention module: fused = plain, what an observer is shown, masks, key/value heads, dropout."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_cases import CONFIGS, VOCAB, assert_close, make_config, make_model, make_source
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.model.attention import Attention, causal_mask
from pellucid.trace import AttentionEvent, Observer


class Recorder(Observer):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[AttentionEvent] = []

    def attention(self, event: AttentionEvent) -> None:
        self.events.append(event)


def make_attention(heads: int = 4, kv_heads: int = 4, **settings: object) -> Attention:
    return Attention(16, heads, kv_heads, use="encoder", layer=0, **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("config", CONFIGS)
def test_traced_and_untraced_runs_give_the_same_logits(config: ModelConfig) -> None:
    model, recorder = make_model(config), Recorder()
    source, mask = make_source(4, 7, 1)
    target = torch.randint(0, VOCAB, (3, 5))
    with torch.inference_mode():
        expected = model(source, mask, target)  # fused
        traced = model(source, mask, target, recorder)  # plain
    assert_close(traced, expected)
    order = [("encoder", layer) for layer in range(config.encoder_layers)]
    order += [(use, layer) for layer in range(config.decoder_layers) for use in ("decoder", "cross")]
    assert [(event.use, event.layer) for event in recorder.events] == order
    # In training there are other paths; without dropout it is the same function.
    assert_close(model.train()(source, mask, target), expected)


def test_every_event_is_consistent_with_itself_and_with_the_layer() -> None:
    model, recorder = make_model(make_config(num_kv_heads=2, cross_num_kv_heads=1)), Recorder()
    source, mask = make_source(4, 7, 1)
    outputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, Attention):
            module.output.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    model(source, mask, torch.randint(0, VOCAB, (3, 5)), recorder)
    assert len(recorder.events) == len(outputs) == 5
    for event, joined in zip(recorder.events, outputs, strict=True):
        shared = 4 // event.key.shape[1]
        assert shared == {"encoder": 2, "decoder": 2, "cross": 4}[event.use]
        key, value = event.key.repeat_interleave(shared, 1), event.value.repeat_interleave(shared, 1)
        assert_close(event.query @ key.transpose(-1, -2) / 2, event.scores)  # √D = 2
        assert event.mask is not None
        allowed = event.mask.expand_as(event.weights)
        assert_close(event.scores.masked_fill(~allowed, float("-inf")).softmax(-1), event.weights)
        assert_close(event.weights.sum(-1), torch.ones(event.weights.shape[:-1]))
        assert (event.weights[~allowed] == 0).all()
        assert (event.weights[allowed] > 0).all()
        assert_close((event.weights @ value).transpose(1, 2).flatten(-2), joined)
        assert not any(tensor.requires_grad for tensor in (event.query, event.scores, event.weights))
        expected = torch.ones(5, 5).tril().bool() if event.use == "decoder" else mask[:, None, None, :]
        assert torch.equal(event.mask.expand(-1, -1, -1, event.mask.shape[-1]).squeeze(), expected.squeeze())


def test_a_step_shows_its_weights_over_all_positions_and_the_source() -> None:
    model, recorder = make_model(make_config()), Recorder()
    source, mask = make_source(4, 7)
    target = torch.randint(0, VOCAB, (6, 4))
    whole = Recorder()
    with torch.inference_mode():
        model(source.repeat_interleave(3, 0), mask.repeat_interleave(3, 0), target, whole)
        cache = model.start_cache(model.encode(source, mask), mask)
        for t in range(4):
            model.step(target[:, t], cache, recorder)
    own, cross = ([event.weights for event in recorder.events if event.use == use] for use in ("decoder", "cross"))
    assert [tuple(weights.shape) for weights in own[::2]] == [(6, 4, 1, t) for t in range(1, 5)]
    assert [tuple(weights.shape) for weights in cross] == [(2, 4, 3, 7)] * 8  # a sentence's 3 beams, side by side
    parallel = {(e.use, e.layer): e.weights for e in whole.events}
    assert_close(own[-1], parallel["decoder", 1][:, :, 3:])
    assert_close(cross[-1].transpose(1, 2).reshape(6, 4, 7), parallel["cross", 1][:, :, 3])


@pytest.mark.parametrize(
    ("training", "observed", "settings", "path"),
    [
        (False, False, {}, "fused"),
        (False, False, {"kv_heads": 2, "dropout": 0.5}, "fused"),
        (False, True, {}, "plain"),
        (True, False, {}, "fused"),
        (True, False, {"kv_heads": 2}, "plain"),
        (True, False, {"dropout": 0.5}, "plain"),
        (True, True, {}, "plain"),
    ],
)
def test_which_path_runs(
    training: bool, observed: bool, settings: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise AssertionError("this path should not have run")

    if path == "plain":
        monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fail)
    else:
        monkeypatch.setattr(Attention, "_plain", fail)
    query, key = torch.randn(2, 4, 3, 4), torch.randn(2, settings.get("kv_heads", 4), 3, 4)
    make_attention(**settings).train(training)(query, key, key, None, Recorder() if observed else None)


@pytest.mark.parametrize("settings", [{}, {"kv_heads": 2}, {"bias": False}, {"head_size": 3, "scaled": False}])
def test_one_product_in_training_gives_what_three_give(settings: dict[str, Any]) -> None:
    attention, x = make_attention(**settings), torch.randn(3, 5, 16)
    results = []
    for training in (False, True):
        parts = attention.train(training).project(x)
        sum(((n + 1) * part.square().sum() for n, part in enumerate(parts)), torch.zeros(())).backward()
        gradients = [parameter.grad for parameter in attention.parameters() if parameter.grad is not None]
        results.append([*parts, *gradients])
        attention.zero_grad()
    assert len(results[0]) == (6 if settings == {"bias": False} else 9)
    for apart, joined in zip(*results, strict=True):
        assert_close(joined, apart)


def test_the_source_is_projected_for_all_layers_at_once_in_training() -> None:
    model = make_model(make_config(num_kv_heads=2))
    memory = torch.randn(2, 5, model.config.hidden_size)
    apart = model.decoder.source_keys_values(memory)
    joined = model.train().decoder.source_keys_values(memory)
    for few, many in zip(apart, joined, strict=True):
        assert_close(many[0], few[0])
        assert_close(many[1], few[1])


def test_a_projection_that_is_more_than_a_linear_layer_is_called() -> None:
    attention, x = make_attention().train(), torch.randn(2, 3, 16)
    attention.value.register_forward_hook(lambda *_: torch.zeros(2, 3, 16))
    assert (attention.project(x)[2] == 0).all()

    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    attention = make_attention().train()
    expected = 2 * attention.keys_values(x)[0]
    other = Twice(16, 16)
    other.load_state_dict(attention.key.state_dict())
    attention.key = other
    assert_close(attention.project(x)[1], expected)


MASKS: dict[str, Callable[[int, int], Tensor | None]] = {
    "none": lambda _, __: None,
    "causal": lambda new, seen: causal_mask(new, seen - new),
    "padding": lambda _, seen: (torch.arange(seen) < torch.tensor([[1], [seen]]))[:, None, None],
}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("new", "seen"), [(1, 1), (1, 9), (5, 5), (3, 9), (40, 70)])
@pytest.mark.parametrize("mask", MASKS)
def test_fused_and_plain_give_the_same_numbers(kv_heads: int, new: int, seen: int, mask: str) -> None:
    attention = make_attention(kv_heads=kv_heads)
    query = torch.randn(2, 4, new, 4)
    key, value = torch.randn(2, kv_heads, 80, 4)[:, :, :seen], torch.randn(2, kv_heads, 80, 4)[:, :, :seen]
    allowed = MASKS[mask](new, seen)
    fused = attention(query, key, value, allowed)
    assert_close(attention(query, key, value, allowed, Recorder()), fused)
    assert_close(attention.train()(query, key, value, allowed), fused)


@pytest.mark.parametrize("observer", [None, Recorder()])
def test_no_score_is_high_enough_to_pass_the_mask(observer: Recorder | None) -> None:
    attention = make_attention(heads=1, kv_heads=1)
    query, value = torch.full((1, 1, 1, 16), 1e4), torch.eye(16)[None, None]
    key = torch.linspace(-1e3, 1e3, 16)[None, None, :, None].expand(1, 1, 16, 16)
    attention.output = nn.Identity()  # type: ignore[assignment]
    weights = attention(query, key, value, (torch.arange(16) < 2)[None, None, None], observer)
    assert torch.equal(weights[0, 0], torch.eye(16)[1])


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_gradients_of_both_paths_agree(kv_heads: int) -> None:
    query, key, value = torch.randn(2, 4, 3, 4), torch.randn(2, kv_heads, 5, 4), torch.randn(2, kv_heads, 5, 4)
    attention, mask = make_attention(kv_heads=kv_heads), MASKS["padding"](3, 5)
    gradients = []
    for observer in (None, Recorder()):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        attention(*leaves, mask, observer).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for fused, plain in zip(*gradients, strict=True):
        assert fused is not None
        assert plain is not None
        assert_close(plain, fused)


def test_a_group_of_query_heads_shares_one_key_value_head() -> None:
    grouped, full = make_attention(kv_heads=2), make_attention(kv_heads=4)
    full.load_state_dict(grouped.state_dict() | copied_heads(grouped, 2))
    x = torch.randn(3, 5, 16)
    few, many = grouped.keys_values(x), full.keys_values(x)
    assert few[0].shape == (3, 2, 5, 4)
    assert torch.equal(many[0][:, 1], few[0][:, 0])
    query = grouped.queries(x)
    assert_close(grouped(query, *few, None), full(query, *many, None))


def copied_heads(attention: Attention, times: int) -> dict[str, Tensor]:
    """The key and value projections with every head of size 4 repeated side by side."""
    state = {name: value for name, value in attention.state_dict().items() if name.split(".")[0] in ("key", "value")}
    return {
        name: value.unflatten(0, (-1, 4)).repeat_interleave(times, 0).flatten(0, 1) for name, value in state.items()
    }


@pytest.mark.parametrize(("new", "past"), [(1, 0), (4, 0), (3, 2), (1, 5)])
def test_a_causal_mask_lets_each_position_see_itself_and_the_past(new: int, past: int) -> None:
    mask = causal_mask(new, past)
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 1, new, past + new)
    for t, s in itertools.product(range(new), range(past + new)):
        assert mask[0, 0, t, s].item() == (s <= past + t)


@pytest.mark.parametrize("probability", [0.25, 0.9])
def test_dropout_acts_on_the_weights_in_training(probability: float) -> None:
    size = 400
    attention = Attention(size, 1, 1, dropout=probability, use="encoder", layer=0, bias=False).train()
    attention.output = nn.Identity()  # type: ignore[assignment]
    query, key = torch.randn(1, 1, size, size), torch.randn(1, 1, size, size)
    value = torch.eye(size)[None, None]  # so that what comes out are the weights
    dropped = attention(query, key, value, None)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=5 * 0.5 / size)
    weights = attention.eval()(query, key, value, None)
    assert_close(dropped[kept], weights[kept] / (1 - probability))
    assert (weights > 0).all()


def test_to_look_inside_a_model_in_use_drops_nothing() -> None:
    attention, query = make_attention(dropout=0.5), torch.randn(2, 4, 3, 4)
    assert_close(attention(query, query, query, None, Recorder()), attention(query, query, query, None))


def test_an_observer_is_any_object_with_the_method() -> None:
    assert isinstance(Recorder(), Observer)
    assert not isinstance(object(), Observer)
