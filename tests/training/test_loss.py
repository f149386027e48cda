"""The blocked loss and its gradients are those of torch's cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.data.batches import collate
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.loss import BLOCK_TOKENS, ROW_STEP, r_drop_loss, token_loss
from pellucid.training.trainer import batch_loss

SIZES = [1, 2, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS + 3]
WIDTH, VOCAB = 12, 37


def make_inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCAB, (tokens,))


def relative(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("tokens", SIZES)
def test_loss_and_gradients_are_those_of_torch(tokens: int, smoothing: float) -> None:
    hidden, weight, targets = make_inputs(tokens)
    loss, nll = token_loss(hidden, weight, targets, smoothing)
    (loss / 7).backward()
    exact_hidden, exact_weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logits = exact_hidden @ exact_weight.t()
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    (expected / 7).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert nll.item() == pytest.approx(F.cross_entropy(logits, targets, reduction="sum").item(), rel=1e-5)
    assert relative(hidden.grad, exact_hidden.grad) < 1e-5
    assert relative(weight.grad, exact_weight.grad) < 1e-5
    assert (loss.dtype, nll.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("tokens", [5, BLOCK_TOKENS + 1])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_products_stay_near(tokens: int, hidden_dtype: torch.dtype) -> None:
    """Only the products are rounded: the result is that of rounded inputs, up to the rounding of logits."""
    hidden, weight, targets = make_inputs(tokens)
    given = hidden.detach().to(hidden_dtype).requires_grad_()
    loss, nll = token_loss(given, weight, targets, 0.1, torch.bfloat16)
    loss.backward()
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight)]
    logits = exact[0] @ exact[1].t()
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    assert nll.item() == pytest.approx(F.cross_entropy(logits, targets, reduction="sum").item(), rel=5e-3)
    assert relative(given.grad, exact[0].grad) < 2e-2
    assert relative(weight.grad, exact[1].grad) < 2e-2
    assert given.grad is not None
    assert weight.grad is not None
    assert (given.grad.dtype, weight.grad.dtype) == (hidden_dtype, torch.float32)


def test_autocast_around_it_changes_nothing() -> None:
    hidden, weight, targets = make_inputs(20)
    expected = token_loss(hidden, weight, targets, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_loss(hidden, weight, targets, 0.1)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    gradients = [torch.autograd.grad(loss, (hidden, weight)) for loss in (found[0], expected[0])]
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_one_side_may_need_no_gradient(frozen: str) -> None:
    hidden, weight, targets = make_inputs(30)
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    token_loss(hidden, weight, targets)[0].backward()
    assert (hidden.grad is None, weight.grad is None) == (frozen == "hidden", frozen == "weight")


@pytest.mark.parametrize(("mode", "blocks"), [(torch.enable_grad, 2), (torch.no_grad, 0), (torch.inference_mode, 0)])
def test_gradients_are_computed_only_where_they_are_needed(
    mode: Callable[[], Any], blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[Tensor] = []
    mm = torch.mm

    def spy(gradient: Tensor, matrix: Tensor) -> Tensor:
        products.append(gradient)
        return mm(gradient, matrix)

    monkeypatch.setattr(torch, "mm", spy)  # makes the gradient of a block of states
    inputs = make_inputs(BLOCK_TOKENS + 5)
    with mode():
        loss, _ = token_loss(*inputs, 0.1)
    assert len(products) == blocks
    assert loss.requires_grad == (blocks > 0)


def test_without_smoothing_both_sums_are_the_same() -> None:
    loss, nll = token_loss(*make_inputs(BLOCK_TOKENS + 1))
    assert torch.equal(loss, nll)


def test_the_unsmoothed_sum_has_no_gradient() -> None:
    loss, nll = token_loss(*make_inputs(4), smoothing=0.1)
    assert loss.requires_grad
    assert not nll.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_of_no_probability_has_its_true_loss_and_gradient(dtype: torch.dtype, smoothing: float) -> None:
    """Logits hundreds apart: the softmax of the gold token is 0."""
    hidden = torch.tensor([[400.0, 0.0], [0.5, 1.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([1, 2])
    loss, nll = token_loss(hidden, weight, targets, smoothing, dtype)
    loss.backward()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logits = exact[0] @ exact[1].t()
    F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing).backward()
    assert nll.item() == pytest.approx(F.cross_entropy(logits, targets, reduction="sum").item(), rel=1e-3)
    assert relative(hidden.grad, exact[0].grad) < 1e-2
    assert relative(weight.grad, exact[1].grad) < 1e-2


def test_a_loss_that_is_no_number_says_so() -> None:
    for value in (float("nan"), float("inf")):
        hidden, weight, targets = make_inputs(3)
        with torch.no_grad():
            hidden[1, 0] = value
        assert not token_loss(hidden, weight, targets, 0.1)[0].isfinite()


def test_no_token_no_loss() -> None:
    hidden, weight, targets = make_inputs(0)
    loss, nll = token_loss(hidden, weight, targets, 0.1)
    loss.backward()
    assert (loss.item(), nll.item()) == (0, 0)
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def test_logits_of_one_block_at_most_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    softmax = Tensor.softmax

    def spy(logits: Tensor, dim: int) -> Tensor:
        blocks.append(logits.shape[1])
        return softmax(logits, dim)

    monkeypatch.setattr(Tensor, "softmax", spy)
    token_loss(*make_inputs(2 * BLOCK_TOKENS + 3))
    assert blocks == [BLOCK_TOKENS, BLOCK_TOKENS, ROW_STEP]


@pytest.mark.parametrize("settings", [{}, {"output_bias": True}, {"scale_output": True, "positions": "relative"}])
def test_the_loss_of_a_batch_is_that_of_the_models_logits(settings: dict[str, Any]) -> None:
    torch.manual_seed(1)
    sizes = dict(hidden_size=8, num_heads=2, ff_size=12, encoder_layers=1, decoder_layers=1, dropout=0.0)
    model = EncoderDecoder(ModelConfig(**{**sizes, **settings}), 17, 17).train()
    if model.output.bias is not None:
        torch.nn.init.normal_(model.output.bias)
    batch = collate([[5, 6, 7], [8]], [[9], [10, 11, 12]])
    batch_loss(model, batch, 0.1)[0].backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits = model(batch.source, batch.source_mask, batch.target_in)[batch.target_mask]
    targets = batch.target_out[batch.target_mask]
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1)
    expected.backward()
    assert batch_loss(model, batch, 0.1)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-6:
            assert relative(found[name], parameter.grad) < 1e-4, name
    assert found.get("output.bias") is not None or not settings.get("output_bias")


def kl(p: Tensor, q: Tensor) -> Tensor:
    return F.kl_div(q, p, reduction="sum", log_target=True)


@pytest.mark.parametrize("tokens", SIZES)
@pytest.mark.parametrize(("smoothing", "alpha"), [(0.0, 5.0), (0.1, 2.0)])
def test_r_drop_and_its_gradients_are_those_of_the_equation(tokens: int, smoothing: float, alpha: float) -> None:
    hidden = torch.randn(2, tokens, WIDTH, requires_grad=True)
    _, weight, targets = make_inputs(tokens)
    loss, nll = r_drop_loss(hidden, weight, targets, smoothing, alpha)
    (loss / 7).backward()
    exact_hidden, exact_weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    p, q = (exact_hidden @ exact_weight.t()).log_softmax(-1)
    cross = [F.cross_entropy(x, targets, reduction="sum", label_smoothing=smoothing) for x in (p, q)]
    expected = (sum(cross) + alpha / 2 * (kl(p, q) + kl(q, p))) / 2  # Liang et al. 2021, equation 4, halved
    (expected / 7).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = sum(F.nll_loss(x, targets, reduction="sum").item() for x in (p, q)) / 2
    assert nll.item() == pytest.approx(plain, rel=1e-5)
    assert relative(hidden.grad, exact_hidden.grad) < 1e-5
    assert relative(weight.grad, exact_weight.grad) < 1e-5


@pytest.mark.parametrize("tokens", [5, BLOCK_TOKENS + 1])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_r_drop_in_bfloat16_stays_near(tokens: int, hidden_dtype: torch.dtype) -> None:
    """As of one pass: the equation for rounded inputs, up to the rounding of logits."""
    hidden = torch.randn(2, tokens, WIDTH).to(hidden_dtype).requires_grad_()
    _, weight, targets = make_inputs(tokens)
    loss, nll = r_drop_loss(hidden, weight, targets, 0.1, 5.0, torch.bfloat16)
    loss.backward()
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight)]
    p, q = (exact[0] @ exact[1].t()).log_softmax(-1)
    cross = [F.cross_entropy(x, targets, reduction="sum", label_smoothing=0.1) for x in (p, q)]
    expected = (sum(cross) + 5.0 / 2 * (kl(p, q) + kl(q, p))) / 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    plain = sum(F.nll_loss(x, targets, reduction="sum").item() for x in (p, q)) / 2
    assert nll.item() == pytest.approx(plain, rel=5e-3)
    assert relative(hidden.grad, exact[0].grad) < 2e-2
    assert relative(weight.grad, exact[1].grad) < 2e-2
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (hidden_dtype, torch.float32)


@pytest.mark.parametrize(("dtype", "loss_error", "error"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 2e-2, 0.2)])
def test_r_drop_of_a_batch_with_output_bias_is_that_of_the_models_logits(
    dtype: torch.dtype, loss_error: float, error: float
) -> None:
    torch.manual_seed(1)
    sizes = dict(hidden_size=16, num_heads=2, ff_size=24, encoder_layers=1, decoder_layers=1)
    model = EncoderDecoder(ModelConfig(**sizes, output_bias=True, dropout=0.3, word_dropout=0.2), 17, 17).train()
    assert model.output.bias is not None
    torch.nn.init.normal_(model.output.bias)
    batch = collate([[5, 6, 7], [8]], [[9], [10, 11, 12]])
    torch.manual_seed(2)
    loss = batch_loss(model, batch, 0.1, dtype, r_drop=5.0)[0]
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(2)
    twice = [torch.cat((tensor, tensor)) for tensor in (batch.source, batch.source_mask, batch.target_in)]
    p, q = (row[batch.target_mask].log_softmax(-1) for row in model(*twice).unflatten(0, (2, -1)))
    targets = batch.target_out[batch.target_mask]
    cross = [F.cross_entropy(x, targets, reduction="sum", label_smoothing=0.1) for x in (p, q)]
    assert kl(p, q).item() > 0.1, "the passes must differ, each with its own dropout"
    expected = (sum(cross) + 5.0 / 2 * (kl(p, q) + kl(q, p))) / 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=loss_error)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-3:
            assert relative(found[name], parameter.grad) < error, name
    assert found["output.bias"] is not None


def test_r_drop_reads_a_batch_twice_with_other_dropout() -> None:
    batch = collate([[4, 5, 6], [7]], [[8, 9], [4, 5, 6, 7]])
    quiet = EncoderDecoder(ModelConfig(preset="tiny"), 11, 11).eval()
    plain, again = batch_loss(quiet, batch, 0.1)[0], batch_loss(quiet, batch, 0.1, r_drop=5.0)[0]
    assert again.item() == pytest.approx(plain.item(), rel=1e-5), "two equal passes have nothing between them"
    noisy = EncoderDecoder(ModelConfig(preset="tiny", dropout=0.3), 11, 11).train()
    noisy.load_state_dict(quiet.state_dict())
    torch.manual_seed(1)
    small = batch_loss(noisy, batch, r_drop=0.1)[0].item()
    torch.manual_seed(1)
    assert batch_loss(noisy, batch, r_drop=5.0)[0].item() > small * 1.05
