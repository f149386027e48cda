"""The state of a run on disk: all that is needed to go on as if it had never stopped.

``last/`` is a model folder like ``best/`` (its weights are the averaged ones where a run averages) with two files more:
``training.safetensors`` (raw weights where they differ, Adam's moments, the random generator) and ``training.json``
(counters). Knows nothing about how a run uses them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pellucid.errors import ModelFolderError
from pellucid.files import write_json
from pellucid.model.storage import save_tensors
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.optimizer import WeightAverage

__all__ = ["Progress", "has_state", "load_state", "save_state"]

TENSORS_FILE = "training.safetensors"
PROGRESS_FILE = "training.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclasses.dataclass(slots=True)
class Progress:
    """Where a run is.

    Attributes:
        update: updates done.
        epoch: 0-based epoch of the next batch.
        batch: 0-based number, inside its epoch, of the next batch.
        target_tokens: real target tokens trained on.
        seconds: time spent in updates.
        best: best value of the deciding metric so far.
        best_update: the update it was reached at.
        stalled: validations since.
        validated: the last update that was validated.
        finished: why the run has ended; empty while it has not.
        window_loss, window_tokens, window_seconds: sums since the last log line.
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    target_tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_update: int = 0
    stalled: int = 0
    validated: int = 0
    finished: str = ""
    window_loss: float = 0.0
    window_tokens: int = 0
    window_seconds: float = 0.0


def has_state(folder: Path) -> bool:
    """Whether a run's state stands in ``folder``."""
    return (folder / PROGRESS_FILE).is_file()


def save_state(
    folder: Path,
    progress: Progress,
    model: EncoderDecoder,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Write the state beside the model's files (the caller replaces the folder as a whole)."""
    tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    for name, parameter in model.named_parameters():
        if average is not None and name in average.weights:
            tensors[f"weights.{name}"] = parameter
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": moments[moment] for moment in MOMENTS if moment in moments}
    save_tensors(folder / TENSORS_FILE, tensors)
    write_json(folder / PROGRESS_FILE, dataclasses.asdict(progress))


def load_progress(folder: Path) -> Progress:
    """Read only the counters.

    Raises:
        ModelFolderError: the file is damaged.
    """
    path = folder / PROGRESS_FILE
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ModelFolderError(f"{path}: not the state of a training run; the file is damaged") from None


def load_state(
    folder: Path, model: EncoderDecoder, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> Progress:
    """Put a saved state back; ``model`` holds the weights of ``folder`` already.

    Raises:
        ModelFolderError: a file is missing, damaged, or of another architecture.
    """
    progress = load_progress(folder)
    path = folder / TENSORS_FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: not readable ({error}); the checkpoint is damaged") from None
    try:
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            if average is not None:
                average.load(parameters)
            # Where there are none, nothing has been averaged so far, and the weights of ``folder`` are the raw ones.
            if any(name.startswith("weights.") for name in tensors):
                for name, parameter in parameters.items():
                    if parameter.requires_grad:
                        parameter.copy_(tensors[f"weights.{name}"])
        for name, parameter in model.named_parameters():
            if f"step.{name}" in tensors:
                # Adam keeps its step counter where the fused kernel wants it: on the parameter's device.
                optimizer.state[parameter] = {
                    moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS
                }
        torch.set_rng_state(tensors["random"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([tensors[f"random.cuda.{i}"] for i in range(torch.cuda.device_count())])
    except KeyError as error:
        raise ModelFolderError(f"{path}: {error} is missing; the checkpoint is damaged or of another run") from None
    return progress
