"""Multi-head attention as grouped-query attention: key/value heads of a trained model pooled to fewer.

Each new head is the mean of those whose queries it will serve (Ainslie et al. 2023, section 2.1); the model is then to
be trained on for a while. Knows nothing of training. Shapes: G key/value heads, D head size, M model size.
"""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.model.alone import DecoderOnly
from pellucid.model.skeleton import place, skeleton
from pellucid.model.transformer import EncoderDecoder

__all__ = ["pool_heads"]

Model = TypeVar("Model", EncoderDecoder, DecoderOnly)
_POOLED = re.compile(r".*\.(attention|cross_attention)\.(key|value)\.(weight|bias)")


@torch.no_grad()
def pool_heads(model: Model, heads: int) -> Model:
    """A new model with ``heads`` key/value heads in every attention, those of self- and of cross-attention alike.

    Query heads stand in groups of neighbours, so that neighbouring key/value heads are what is pooled. Where nothing
    is to be pooled the numbers stay as they are; what is not pooled is shared with ``model``.

    Args:
        model: in evaluation mode.
        heads: divides the number of key/value heads that there are.

    Raises:
        ConfigError: it does not.
    """
    config = model.config
    kinds = {"self-attention": config.self_kv_heads}
    if isinstance(model, EncoderDecoder):
        kinds["cross-attention"] = config.cross_kv_heads
    for kind, before in kinds.items():
        if heads < 1 or before % heads:
            allowed = ", ".join(str(n) for n in range(1, before + 1) if before % n == 0)
            raise ConfigError(
                f"{heads} key/value heads cannot be pooled from the {before} of {kind}: "
                f"the number must divide them ({allowed})"
            )
    smaller = config.model_copy(update={"num_kv_heads": heads, "cross_num_kv_heads": None})

    def pooled(name: str, tensor: Tensor) -> Tensor:
        found = _POOLED.fullmatch(name)
        if found is None:
            return tensor
        before = kinds["cross-attention" if found[1] == "cross_attention" else "self-attention"]
        split = tensor.unflatten(0, (heads, before // heads, config.head_size))
        mean: Tensor = split.mean(1).flatten(0, 1)
        return mean

    sizes: tuple[int, ...] = (model.target_vocab_size,)
    if isinstance(model, EncoderDecoder):
        sizes = (model.source_vocab_size, *sizes)
    made = skeleton(lambda: type(model)(smaller, *sizes))
    place(made, {name: pooled(name, tensor) for name, tensor in model.named_parameters()})
    return made.eval()
