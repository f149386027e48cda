"""All checks in order: those that need text and settings alone, which also run when a run starts, and the model's.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pellucid.config import Config
from pellucid.data.prepare import PreparedData
from pellucid.data.reading import label
from pellucid.doctor.model import check_model
from pellucid.doctor.pairing import check_pairing
from pellucid.doctor.results import Check
from pellucid.doctor.scripts import check_dev_languages, check_languages, sample
from pellucid.doctor.settings import Facts, check_settings
from pellucid.doctor.text import check_text
from pellucid.errors import DataError
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.log import Reporter
from pellucid.training.runtime import resolve_device
from pellucid.training.tuning import tune

__all__ = ["examine", "guard", "quick_checks"]


def quick_checks(config: Config, data: PreparedData, progress: Callable[[int], None] | None = None) -> Iterator[Check]:
    """Settings and text: about a second for 30,000 pairs, 4 more for a million. Draws no random numbers.

    Args:
        config: with all that a model to start from decides.
        data: the run's text.
        progress: called now and then with the number of training pairs that have been read.
    """
    facts = Facts(config, data)
    train = {name: sample(part, label("train", name)) for name, part in data.train_parts.items()}
    dev = {name: sample(part, label("dev", name)) for name, part in data.dev_parts.items()}
    yield from check_settings(facts)
    for name, part in data.train_parts.items():
        yield check_pairing(part.texts, label("train", name))
    for name, part in data.dev_parts.items():
        if name not in data.train_parts or part.texts is not data.train_parts[name].texts:
            yield check_pairing(part.texts, label("dev", name))
    for name, sides in train.items():
        yield from check_languages(sides, dev.get(name))
    for name, sides in dev.items():
        if name not in train:  # one development set for all corpora
            yield from check_dev_languages(sample(data.train, "train"), sides)
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
    tune(model, config.training)
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
