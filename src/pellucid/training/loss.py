"""Label-smoothed cross-entropy over real tokens, without ever holding the logits of a whole batch; and R-Drop.

Knows nothing about batches or models: states of real target tokens in, one sum out.
Shapes: P passes (1, or 2 for R-Drop), N tokens, M model size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["BLOCK_TOKENS", "r_drop_loss", "token_loss"]

BLOCK_TOKENS = 512
"""Rows of logits (tokens × passes) held at once."""

SMALLEST = 1e-30
"""Probabilities below it are computed anew from the logits before their logarithm is taken."""

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
        dtype: precision of the matrix products and of what softmax hands to them; inside, and in sums, it is float32.

    Returns:
        The sum (its gradients reach ``hidden`` and ``weight``), and Σ −log p(y) without smoothing (no gradient).
    """
    return _blocked(hidden[None], weight, targets, smoothing, 0.0, dtype)


def r_drop_loss(
    hidden: Float[Tensor, "2 N M"],
    weight: Float[Tensor, "V M"],
    targets: Int[Tensor, " N"],
    smoothing: float,
    alpha: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The same tokens read twice, each time with another draw of dropout, are to say the same (Liang et al. 2021).

    The mean of both passes' :func:`token_loss`, and α/4 · Σ over tokens of KL(p‖q) + KL(q‖p): half of equation 4, so
    that the loss keeps its size whether R-Drop is on or off.

    Args:
        hidden: decoder states of the first and of the second pass.
        alpha: α; the paper's translation models have 5.

    Returns:
        As :func:`token_loss`; Σ −log p(y) is the mean of both passes'.
    """
    return _blocked(hidden, weight, targets, smoothing, alpha, dtype)


def _blocked(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    # Inside forward() gradients are always off, and needs_input_grad is True of a parameter even under no_grad.
    on = torch.is_grad_enabled()
    needs_gradient = on and (hidden.requires_grad or weight.requires_grad), on and weight.requires_grad
    apply: Callable[..., tuple[Tensor, Tensor]] = _BlockedLoss.apply
    with torch.autocast(hidden.device.type, enabled=False):
        return apply(hidden, weight, targets, smoothing, alpha, dtype, needs_gradient)


class _BlockedLoss(torch.autograd.Function):
    """Computes the gradient together with the loss, block by block: the softmax is at hand only then."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        alpha: float,
        dtype: torch.dtype,
        needs_gradient: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        passes, tokens = hidden.shape[:2]
        # Few different numbers of rows, so that few matrix kernels are compiled; what is added counts for nothing.
        states = F.pad(hidden.to(dtype), (0, 0, 0, -tokens % ROW_STEP))
        matrix = weight.to(dtype)
        hidden_gradient = torch.empty_like(states) if needs_gradient[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient[1] else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        nll = hidden.new_zeros((), dtype=torch.float32)
        size = BLOCK_TOKENS // passes
        for start in range(0, tokens, size):
            rows = slice(start, start + size)
            block = states[:, rows].flatten(0, 1)
            gold = targets[rows, None].expand(passes, -1, 1)
            real = gold.shape[1]
            logits = (block @ matrix.t()).unflatten(0, (passes, -1))
            gradient, gold_log_probs, between = _softmax(logits, gold, alpha)
            if between is not None:
                loss += between[0][:real].sum()
            block_nll = -gold_log_probs.sum() / passes
            nll += block_nll
            # Mean over V of log p = mean of the logits, which follows below, − log Σ exp.
            log_sums = logits[:, :real].gather(2, gold).float() - gold_log_probs
            loss += (1 - smoothing) * block_nll + smoothing * log_sums.sum() / passes
            if hidden_gradient is not None:
                # d loss / d logits = softmax − (1−ε)·onehot(y), a share of it for each pass; − ε/V follows below
                _subtract_gold(gradient, gold, 1 - smoothing)
                if passes > 1:
                    gradient.div_(passes)
                if between is not None:
                    gradient.add_(between[1])
                gradient[:, real:] = 0.0
                flat = gradient.flatten(0, 1).to(dtype)
                hidden_gradient[:, rows] = torch.mm(flat, matrix).unflatten(0, (passes, -1))
                if weight_gradient is not None:  # none where the output matrix is frozen
                    weight_gradient += flat.t() @ block
        if smoothing:
            share = smoothing / passes
            mean_row, total = matrix.float().mean(0), states[:, :tokens].sum((0, 1), dtype=torch.float32)
            loss -= share * (total @ mean_row)
            if hidden_gradient is not None:
                hidden_gradient -= (share * mean_row).to(dtype)
            if weight_gradient is not None:
                weight_gradient -= share / len(weight) * total
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient[:, :tokens]
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = grad_outputs[0]
        hidden_dtype, weight_dtype = ctx.dtypes
        of_weight = None if weight_gradient is None else (weight_gradient * scale).to(weight_dtype)
        return (hidden_gradient * scale).to(hidden_dtype), of_weight, None, None, None, None, None


def _softmax(
    logits: Float[Tensor, "P R V"], gold: Int[Tensor, "P N 1"], alpha: float
) -> tuple[Float[Tensor, "P R V"], Float[Tensor, "P N 1"], tuple[Tensor, Tensor] | None]:
    """Probabilities, log p(y), and what R-Drop adds where ``alpha`` is not 0; the first N of R rows are tokens.

    Without R-Drop the probabilities have the logits' type: softmax is float32 inside, and what comes out would be
    rounded for the next products anyway. log p(y) of a bfloat16 probability is off by 0.002 at most, up and down.
    """
    real = gold.shape[1]
    if alpha:
        log_probs = logits.float().log_softmax(-1)
        gold_log_probs = log_probs[:, :real].gather(2, gold)
        between = _between_passes(log_probs, alpha)
        return log_probs.exp_(), gold_log_probs, between
    probs = logits.softmax(-1)
    found = probs[:, :real].gather(2, gold).float()
    gold_log_probs = found.log()
    lost = (found < SMALLEST)[..., 0]
    if lost.any():
        gold_log_probs[lost] = logits[:, :real][lost].float().log_softmax(-1).gather(1, gold[lost])
    return probs, gold_log_probs, None


def _subtract_gold(gradient: Float[Tensor, "P R V"], gold: Int[Tensor, "P N 1"], amount: float) -> None:
    """gradient[p, n, y] −= amount; scatter_add_ in bfloat16 would copy the whole to float32 and back."""
    passes, rows, size = gradient.shape
    first = torch.arange(passes, device=gold.device)[:, None] * rows + torch.arange(gold.shape[1], device=gold.device)
    cells = (first[..., None] * size + gold).flatten()
    gradient.view(-1).index_add_(0, cells, gradient.new_full(cells.shape, -amount))


def _between_passes(
    log_probs: Float[Tensor, "2 N V"], alpha: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, "2 N V"]]:
    """α/4 · (KL(p‖q) + KL(q‖p)) of each token, and its gradient with respect to both passes' logits.

    d KL(p‖q) / d logits of p = p·(log p − log q − KL(p‖q)), and d KL(q‖p) / d logits of p = p − q.
    """
    probs = log_probs.exp()
    others = probs.flip(0)
    apart = log_probs - log_probs.flip(0)
    divergence = (probs * apart).sum(-1, keepdim=True)  # KL(p‖q), KL(q‖p)
    gradient = probs * (apart - divergence) + probs - others
    return alpha / 4 * divergence.sum(0)[:, 0], alpha / 4 * gradient
