"""Which parameters a run trains: all, all but those that are frozen, or adapters beside a model that stays as it is.

Knows nothing about losses, optimisers, or where a model comes from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from pellucid.config import ModelConfig, TrainingConfig
from pellucid.errors import ConfigError
from pellucid.model.lora import add_adapters
from pellucid.model.skeleton import skeleton
from pellucid.model.transformer import EncoderDecoder

__all__ = ["check_tuning", "parameter_names", "tune"]

NEAR = 3
"""Names that are named where a pattern matches none."""


def tune(model: EncoderDecoder, config: TrainingConfig) -> str | None:
    """Freeze what is not to be trained, and put adapters in place; draws random numbers for these.

    Args:
        model: with the weights to start from; it is changed.
        config: ``freeze`` and ``lora`` decide.

    Returns:
        What is trained, as a sentence; None where that is everything.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    if config.lora is not None:
        layers = _adapted_layers(model, config.lora.targets)
        model.requires_grad_(False)
        add_adapters(model, layers, config.lora.rank, config.lora.alpha, config.lora.dropout)
        how = f"adapters of rank {config.lora.rank} on {len(layers)} layers, the model itself is frozen"
    elif config.freeze:
        frozen = _frozen(model, config.freeze)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        how = f"{len(frozen)} of {sum(1 for _ in model.parameters())} tensors are frozen"
    else:
        return None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%}): {how}"


def check_tuning(model: ModelConfig, config: TrainingConfig) -> None:
    """What :func:`tune` refuses, found without weights or vocabularies.

    Raises:
        ConfigError: as there.
    """
    shapes = skeleton(lambda: EncoderDecoder(model, 2, 2))
    if config.lora is not None:
        _adapted_layers(shapes, config.lora.targets)
    elif config.freeze:
        _frozen(shapes, config.freeze)


def parameter_names(model: nn.Module) -> dict[str, list[str]]:
    """The name of every parameter, and the other names of one that is tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: others for first, *others in names.values()}


def _adapted_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The linear layers of the stacks whose names match one of these patterns.

    The output matrix is none of them: where it is tied, it is the embeddings.

    Raises:
        ConfigError: a pattern matches none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "output"]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"training.lora.targets: {pattern} matches no linear layer of the encoder or the decoder; "
                f"{_near(pattern, names)} (pellucid info MODEL --parameters shows them, with .weight)"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _frozen(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The parameters that match one of these patterns by any of their names.

    Raises:
        ConfigError: a pattern matches none, or together they match all.
    """
    names = parameter_names(model)
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {
            name for name, others in names.items() if any(fnmatchcase(each, pattern) for each in (name, *others))
        }
        if not matched:
            raise ConfigError(
                f"training.freeze: {pattern} matches no parameter; {_near(pattern, names)} (pellucid info MODEL "
                "--parameters shows all names)"
            )
        frozen |= matched
    if len(frozen) == len(names):
        raise ConfigError(
            f"training.freeze: {', '.join(patterns)} freezes every parameter, so that there is nothing to train: "
            "leave a pattern away, or make it narrower"
        )
    return frozen


def _near(pattern: str, names: Iterable[str]) -> str:
    """The names that have most of a pattern, by its parts that are longer than a letter."""
    plain = pattern.replace("*", "").replace("?", "").strip(".")

    def shared(name: str) -> int:
        blocks = difflib.SequenceMatcher(None, plain, name, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks if block.size > 1)

    return f"near it: {', '.join(sorted(names, key=shared, reverse=True)[:NEAR])}"
