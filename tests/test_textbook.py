"""The facts that the textbook states about the Transformer, as facts of this code.

Each test is one fact; its docstring is the fact's line in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.errors import LengthError
from pellucid.model.transformer import EncoderDecoder
from pellucid.trace import AttentionEvent, Observer
from pellucid.training.loss import token_loss

VOCAB = 13
ALL_POSITIONS = pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
BOTH_PATHS = pytest.mark.parametrize("training", [False, True], ids=["fused", "plain"])


def make_model(**settings: Any) -> EncoderDecoder:
    """A small untrained model without dropout, so that training mode computes the same function."""
    sizes = dict(hidden_size=16, num_heads=4, ff_size=32, encoder_layers=2, decoder_layers=2, dropout=0.0)
    return EncoderDecoder(ModelConfig(**{**sizes, **settings}), VOCAB, VOCAB).eval()


def make_tokens(rows: int, length: int) -> Tensor:
    """Random tokens, none of them padding."""
    return torch.randint(4, VOCAB, (rows, length))


def real(tokens: Tensor) -> Tensor:
    """The mask of a batch without padding."""
    return torch.ones_like(tokens, dtype=torch.bool)


def distance(found: Tensor, expected: Tensor) -> float:
    """max|Δ| / max|expected|."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def count_calls(model: nn.Module) -> list[nn.Module]:
    """A list that grows by one for each module that computes with weights or on activations."""
    calls: list[nn.Module] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda module, _: calls.append(module))
    return calls


def count_products(model: nn.Module) -> list[int]:
    """A list that grows by the multiplications of each linear layer that runs."""
    products: list[int] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        products.append(inputs[0].numel() * module.out_features)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(hook)
    return products


@torch.no_grad()
def test_without_positions_the_encoder_is_blind_to_order() -> None:
    """With positions off, permuting the source permutes the encoder's states and changes nothing else."""
    model, source, target = make_model(positions="none"), make_tokens(2, 7), make_tokens(2, 5)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    states, permuted = model.encode(source, real(source)), model.encode(source[:, order], real(source))
    assert distance(permuted, states[:, order]) < 1e-5
    assert distance(permuted, states) > 1e-2
    logits = model(source, real(source), target)
    assert distance(model(source[:, order], real(source), target), logits) < 1e-5


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@torch.no_grad()
def test_positions_let_the_model_see_order(positions: str) -> None:
    """With any position scheme, the same source words in another order give other logits."""
    model, source, target = make_model(positions=positions), make_tokens(2, 7), make_tokens(2, 5)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    states, permuted = model.encode(source, real(source)), model.encode(source[:, order], real(source))
    assert distance(permuted, states[:, order]) > 1e-3
    logits = model(source, real(source), target)
    assert distance(model(source[:, order], real(source), target), logits) > 1e-3


@pytest.mark.parametrize("side", ["source", "target", "step"])
@torch.no_grad()
def test_a_learned_table_ends(side: str) -> None:
    """A learned table of 512 positions refuses the 513th before anything is computed."""
    model = make_model(positions="learned", max_positions=512)
    short, full, long = make_tokens(1, 3), make_tokens(1, 512), make_tokens(1, 513)
    assert model(full, real(full), full).isfinite().all()
    cache = model.start_cache(model.encode(short, real(short)), real(short))
    model.decoder(full, cache.cross, cache.source_mask, cache)
    calls: dict[str, Callable[[], object]] = {
        "source": lambda: model(long, real(long), short),
        "target": lambda: model(short, real(short), long),
        "step": lambda: model.step(short[:, 0], cache),
    }
    computed = count_calls(model)
    with pytest.raises(LengthError, match=r"513 tokens .* 512 learned positions"):
        calls[side]()
    assert not computed
    assert cache.length == 512


@torch.no_grad()
def test_sinusoidal_positions_go_on() -> None:
    """Sinusoidal positions have no last one: the same model reads and writes on past 512, and past any table."""
    model = make_model(positions="sinusoidal", max_positions=512)
    long = make_tokens(1, 700)
    logits = model(long, real(long), long)
    assert logits.shape == (1, 700, VOCAB)
    assert logits.isfinite().all()
    assert distance(model(long, real(long), long[:, :20]), logits[:, :20]) < 1e-5


@ALL_POSITIONS
@BOTH_PATHS
@torch.no_grad()
def test_no_target_token_changes_an_earlier_logit(positions: str, training: bool) -> None:
    """Changing a target token changes no logit of an earlier position, not by one bit."""
    model = make_model(positions=positions).train(training)
    source, target = make_tokens(3, 5), make_tokens(3, 9)
    logits = model(source, real(source), target)
    for t in range(1, 9):
        changed = target.clone()
        changed[:, t:] = 4 + (changed[:, t:] - 3) % (VOCAB - 4)
        found = model(source, real(source), changed)
        assert torch.equal(found[:, :t], logits[:, :t])
        assert not torch.equal(found[:, t], logits[:, t])


@ALL_POSITIONS
@torch.no_grad()
def test_the_encoder_sees_both_sides(positions: str) -> None:
    """A source token changes the encoder's states before it and behind it."""
    model, source = make_model(positions=positions), make_tokens(1, 7)
    states = model.encode(source, real(source))
    for changed in (0, 3, 6):
        other = source.clone()
        other[0, changed] = 4 + (other[0, changed] - 3) % (VOCAB - 4)
        difference = (model.encode(other, real(other)) - states).abs().amax(-1)
        assert (difference > 1e-5).all()


@ALL_POSITIONS
@BOTH_PATHS
@torch.no_grad()
def test_padding_is_attended_by_nobody(positions: str, training: bool) -> None:
    """What stands at padding, and how much padding there is, changes nothing."""
    model = make_model(positions=positions).train(training)
    source, target = make_tokens(3, 7), make_tokens(3, 6)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    source *= mask
    logits, states = model(source, mask, target), model.encode(source, mask)
    nonsense = torch.where(mask, source, make_tokens(3, 7))
    assert torch.equal(model(nonsense, mask, target), logits)
    assert torch.equal(model.encode(nonsense, mask)[mask], states[mask])
    wider, wider_mask = nn.functional.pad(source, (0, 5)), nn.functional.pad(mask, (0, 5))
    assert distance(model(wider, wider_mask, target), logits) < 1e-6
    alone = model(source[1:2, :4], mask[1:2, :4], target[1:2])
    assert distance(alone, logits[1:2]) < 2e-6


class Weights(Observer):
    """Keeps the attention weights and masks that the model used."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Tensor | None]] = []

    def attention(self, event: AttentionEvent) -> None:
        self.seen.append((event.use, event.weights, event.mask))


@torch.no_grad()
def test_masked_weights_are_exactly_zero() -> None:
    """Attention weights sum to 1, and those of padding and of the future are exactly 0."""
    model, weights = make_model(), Weights()
    source, target = make_tokens(2, 6), make_tokens(2, 4)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    model(source, mask, target, weights)
    assert [use for use, _, _ in weights.seen] == ["encoder"] * 2 + ["decoder", "cross"] * 2
    for use, shares, _ in weights.seen:
        assert torch.allclose(shares.sum(-1), torch.ones(()))
        unseen = shares[..., 1:].triu() if use == "decoder" else shares[1, ..., 2:]
        assert (unseen == 0).all()
        assert ((shares == 0).sum() == (2 * 4 * 6 if use == "decoder" else 4 * 4 * shares.shape[2])).all()


@ALL_POSITIONS
@torch.no_grad()
def test_the_loss_of_one_pass_is_the_sum_over_serial_steps(positions: str) -> None:
    """The loss of one teacher-forced pass equals the sum of the losses of feeding the target token by token."""
    model = make_model(positions=positions)
    source, target_in, target_out = make_tokens(3, 5), make_tokens(3, 8), make_tokens(3, 8)
    wanted = torch.arange(8) < torch.tensor([[8], [5], [1]])
    states = model.decode(source, real(source), target_in)[wanted]
    smoothed, nll = token_loss(states, model.output.weight, target_out[wanted], smoothing=0.1)
    cache = model.start_cache(model.encode(source, real(source)), real(source))
    serial, serial_smoothed = 0.0, 0.0
    for t in range(8):
        log_probs = model.step(target_in[:, t], cache).double().log_softmax(-1)[wanted[:, t]]
        gold = log_probs.gather(1, target_out[wanted[:, t], t : t + 1])
        serial -= gold.sum().item()
        serial_smoothed -= (0.9 * gold.sum() + 0.1 * log_probs.mean(-1).sum()).item()
    assert nll.item() == pytest.approx(serial, rel=1e-5)
    assert smoothed.item() == pytest.approx(serial_smoothed, rel=1e-5)


@torch.no_grad()
def test_a_cached_step_costs_the_same_at_every_position() -> None:
    """With the cache a step's projections cost the same at every position; without it they grow with the prefix."""
    model, source, target = make_model(), make_tokens(2, 5), make_tokens(2, 20)
    memory = model.encode(source, real(source))
    cache = model.start_cache(memory, real(source))
    products = count_products(model)

    def cost(call: Callable[[], object]) -> int:
        products.clear()
        call()
        return sum(products)

    cached = [cost(partial(model.step, target[:, t], cache)) for t in range(20)]
    attention, feed_forward = 4 * 16 * 16, 2 * 16 * 32
    cross = 2 * 16 * 16  # queries and output only: keys and values were computed once, with the source
    assert cached == [2 * (2 * (attention + cross + feed_forward) + 16 * VOCAB)] * 20

    def recompute(length: int) -> None:
        states = model.decoder(target[:, :length], cache.cross, cache.source_mask)
        model.output(states[:, -1])

    uncached = [cost(partial(recompute, t + 1)) for t in range(20)]
    assert uncached == [(t + 1) * (cached[0] - 2 * 16 * VOCAB) + 2 * 16 * VOCAB for t in range(20)]


@torch.no_grad()
def test_the_cache_grows_with_the_target_and_not_with_the_source_or_the_beams_of_cross_attention() -> None:
    """Self-attention's cache is 2 · layers · kv heads · head size · length · rows · bytes; the source's never grows."""
    model, source = make_model(num_kv_heads=2, cross_num_kv_heads=1), make_tokens(3, 7)
    cache = model.start_cache(model.encode(source, real(source)), real(source))
    for length in range(1, 20):
        model.step(make_tokens(12, 1)[:, 0], cache)  # 4 beams a sentence
        used = cache.used_bytes()
        assert used.self_attention == 2 * 2 * 2 * 4 * length * 12 * 4
        assert used.cross_attention == 2 * 2 * 1 * 4 * 7 * 3 * 4


@torch.no_grad()
def test_multi_query_attention_is_multi_head_attention_with_equal_heads() -> None:
    """Multi-query attention computes what multi-head attention computes whose key and value heads are all equal."""
    few, many = make_model(num_kv_heads=1), make_model(num_kv_heads=4)
    state = few.state_dict()
    for name in list(state):
        if "attention.key" in name or "attention.value" in name:
            state[name] = torch.cat([state[name]] * 4)
    many.load_state_dict(state)
    source, target = make_tokens(2, 6), make_tokens(2, 5)
    assert distance(few(source, real(source), target), many(source, real(source), target)) < 1e-5
    caches = [model.start_cache(model.encode(source, real(source)), real(source)) for model in (few, many)]
    steps = [model.step(target[:, 0], cache) for model, cache in zip((few, many), caches, strict=True)]
    assert distance(*steps) < 1e-5
    assert caches[0].used_bytes().total * 4 == caches[1].used_bytes().total
