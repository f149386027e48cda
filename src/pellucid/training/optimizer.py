"""The optimiser, its parameter groups, the learning rate's course, and the moving average of the weights.

Knows nothing about losses or data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pellucid.config import TrainingConfig

__all__ = ["WeightAverage", "learning_rate", "make_optimizer"]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); weight decay on the matrices of linear layers only.

    Norms, biases, embeddings (also where tied to the output) and position tables are not decayed: they are not scaled
    by a later norm in the same way, and rare tokens would shrink between their occurrences.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - embeddings
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if id(p) in linear], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if id(p) not in linear], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def learning_rate(config: TrainingConfig, update: int, total_updates: int) -> float:
    """The learning rate of a 1-based update.

    Linear warm-up to ``learning_rate``, then constant; 1/√update (Vaswani et al. 2017, eq. 3); or falling to
    ``final_learning_rate`` at ``total_updates`` along a line or half a cosine (Loshchilov & Hutter 2017).
    """
    warmup = config.warmup_steps
    if update < warmup:
        return config.learning_rate * update / warmup
    progress = min(1.0, (update - warmup) / max(1, total_updates - warmup))
    match config.schedule:
        case "constant":
            factor = 1.0
        case "inverse_sqrt":
            factor = math.sqrt(max(1, warmup) / max(1, update))
        case "linear":
            factor = 1.0 - (1.0 - config.final_learning_rate) * progress
        case "cosine":
            half_wave = 0.5 * (1.0 + math.cos(math.pi * progress))
            factor = config.final_learning_rate + (1.0 - config.final_learning_rate) * half_wave
    return config.learning_rate * factor


class WeightAverage:
    """Exponential moving average of what is trained (Polyak & Juditsky 1992; decay as in Morishita et al.).

    The decay of update t is min(decay, (1 + t)/(10 + t)), so that the first, random weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        # What is frozen stays as it is, and so would its average.
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, update: int) -> None:
        """Take in the weights after a 1-based update."""
        decay = min(self.decay, (1 + update) / (10 + update))
        parameters = dict(model.named_parameters())
        current = [parameters[name].detach() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
