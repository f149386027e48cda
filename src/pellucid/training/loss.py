"""Label-smoothed cross-entropy over real tokens, without ever holding the logits of a whole batch.

Knows nothing about batches or models: states of real target tokens in, one sum out.
Shapes: N tokens, M model size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["BLOCK_TOKENS", "token_loss"]

BLOCK_TOKENS = 512
"""Tokens whose logits are held at once."""

ROW_STEP = 64
"""The last block is filled up to a multiple of this many tokens."""


def token_loss(
    hidden: Float[Tensor, "N M"],
    weight: Float[Tensor, "V M"],
    targets: Int[Tensor, " N"],
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Σ over tokens of (1−ε)·(−log p(y)) + ε·mean over V of (−log p) (Szegedy et al. 2016, section 7).

    Args:
        hidden: decoder states, real tokens only.
        weight: the output matrix; logits = hidden · weightᵀ.
        targets: the tokens y.
        smoothing: ε.
        dtype: precision of the matrix products; softmax and sums are float32.

    Returns:
        The sum (its gradients reach ``hidden`` and ``weight``), and Σ −log p(y) without smoothing (no gradient).
    """
    # Inside forward() gradients are always off, and needs_input_grad is True of a parameter even under no_grad.
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    apply: Callable[..., tuple[Tensor, Tensor]] = _BlockedLoss.apply
    with torch.autocast(hidden.device.type, enabled=False):
        return apply(hidden, weight, targets, smoothing, dtype, needs_gradient)


class _BlockedLoss(torch.autograd.Function):
    """Computes the gradient together with the loss, block by block: the softmax is at hand only then."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        # Few different numbers of rows, so that few matrix kernels are compiled; what is added counts for nothing.
        states = F.pad(hidden.to(dtype), (0, 0, 0, -hidden.shape[0] % ROW_STEP))
        matrix = weight.to(dtype)
        hidden_gradient = torch.empty_like(states) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        nll = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden.shape[0], BLOCK_TOKENS):
            block = states[start : start + BLOCK_TOKENS]
            gold = targets[start : start + BLOCK_TOKENS, None]
            log_probs = (block @ matrix.t()).float().log_softmax(-1)
            real = log_probs[: gold.shape[0]]
            block_nll = -real.gather(1, gold).sum()
            nll += block_nll
            loss += (1 - smoothing) * block_nll
            if smoothing:
                loss -= smoothing * real.mean(-1).sum()
            if hidden_gradient is not None and weight_gradient is not None:
                # d loss / d logits = softmax − (1−ε)·onehot(y) − ε/V
                gradient = log_probs.exp_()
                if smoothing:
                    gradient.sub_(smoothing / weight.shape[0])
                gradient[: gold.shape[0]].scatter_add_(1, gold, gradient.new_full(gold.shape, smoothing - 1))
                gradient[gold.shape[0] :] = 0.0
                gradient = gradient.to(dtype)
                torch.mm(gradient, matrix, out=hidden_gradient[start : start + BLOCK_TOKENS])
                weight_gradient += gradient.t() @ block
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient[: hidden.shape[0]]
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = grad_outputs[0]
        hidden_dtype, weight_dtype = ctx.dtypes
        gradients = (hidden_gradient * scale).to(hidden_dtype), (weight_gradient * scale).to(weight_dtype)
        return *gradients, None, None, None, None
