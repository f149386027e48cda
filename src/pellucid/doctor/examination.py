"""All checks in order: those that need text and settings alone, which also run when a run starts, and the model's.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pellucid.config import Config
from pellucid.data.prepare import PreparedData
from pellucid.doctor.model import check_model
from pellucid.doctor.pairing import check_pairing
from pellucid.doctor.results import Check
from pellucid.doctor.scripts import check_languages, sample
from pellucid.doctor.settings import Facts, check_settings
from pellucid.doctor.text import check_text
from pellucid.errors import DataError
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.log import Reporter
from pellucid.training.runtime import resolve_device

__all__ = ["examine", "guard", "quick_checks"]


def quick_checks(config: Config, data: PreparedData, progress: Callable[[int], None] | None = None) -> Iterator[Check]:
    """Settings and text: about a second for 30,000 pairs, 4 more for a million. Draws no random numbers.

    Args:
        config: with all that a model to start from decides.
        data: the run's text.
        progress: called now and then with the number of training pairs that have been read.
    """
    facts = Facts(config, data)
    train, dev = sample(data.train, "train"), sample(data.dev, "dev")
    yield from check_settings(facts)
    yield check_pairing(data.train.texts, "train")
    if data.dev.texts is not data.train.texts:
        yield check_pairing(data.dev.texts, "dev")
    yield from check_languages(train, dev)
    yield from check_text(config, data, train, progress)


def examine(
    config: Config,
    data: PreparedData,
    fill: Callable[[EncoderDecoder], None] | None = None,
    quick: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Check]:
    """Every check.

    Args:
        config, data, progress: as for :func:`quick_checks`.
        fill: gives a new model the weights that the run starts from.
        quick: leaves out the checks that need the model.

    Raises:
        ConfigError: training.device is not here.
    """
    yield from quick_checks(config, data, progress)
    if quick:
        return
    torch.manual_seed(config.seed)
    sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
    model = EncoderDecoder(config.model, *sizes)
    if fill is not None:
        fill(model)
    yield from check_model(model.to(resolve_device(config.training.device)), Facts(config, data))


def guard(config: Config, data: PreparedData, reporter: Reporter, place: Path) -> None:
    """What a run does with the quick checks before it begins: warn, and stop where something is wrong beyond doubt.

    Args:
        config: ``training.checks`` decides.
        data: the run's text.
        reporter: takes the sentences.
        place: the run folder, for the error.

    Raises:
        DataError: something is certainly wrong, and ``training.checks`` is ``refuse``.
    """
    if config.training.checks == "skip":
        return
    pairs = len(data.train)
    for check in quick_checks(config, data, lambda done: reporter.progress("look for leaks", done, pairs)):
        if check.verdict == "wrong" and config.training.checks == "refuse":
            raise DataError(f"{check.sentence} ({place} is not begun; training.checks=warn goes on all the same)")
        if check.found:
            reporter.line(f"warning: {check.sentence}")
        elif check.sentence:
            reporter.line(check.sentence)
