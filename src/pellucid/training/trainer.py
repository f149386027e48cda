"""The training loop: teacher forcing, accumulation, logging, validation, checkpoints, early stopping, exact resume.

Knows nothing about text or search: batches come from a stream that can start anywhere, validation is a callback that
returns numbers. Killed at any moment and started again, a run ends with the same weights, bit for bit.
"""

from __future__ import annotations

import errno
import itertools
import math
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.config import TrainingConfig
from pellucid.data.batches import Batch, BatchStream
from pellucid.errors import ConfigError, TrainingError
from pellucid.files import present_folder, replace_folder
from pellucid.model.storage import save_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.checkpoint import MOMENTS, Progress, has_state, load_progress, load_state, save_state
from pellucid.training.log import NoLog, Reporter, RunLog, training_line, validation_line
from pellucid.training.loss import r_drop_loss, token_loss
from pellucid.training.optimizer import WeightAverage, learning_rate, make_optimizer
from pellucid.training.parallel import Processes, ProcessLostError
from pellucid.training.scheduled_sampling import mixed_batch, sampled_share

__all__ = ["Trainer", "WeightWriter", "batch_loss"]

ORDER_OF_BATCHES = {"seed", "training.batch_tokens"}
"""Settings that decide which pairs are in which batch of an epoch."""

STOPPING = "stopping after this update; the checkpoint is being saved (once more: stop now)"

WeightWriter = Callable[[Path, EncoderDecoder, Mapping[str, Tensor] | None, Mapping[str, Any]], None]


def batch_loss(
    model: EncoderDecoder,
    batch: Batch,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
    r_drop: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Summed smoothed loss and summed −log p of a batch's real target tokens, in one teacher-forced pass.

    With ``r_drop`` the batch goes through twice, side by side, so that each pass draws its own dropout.
    """
    inputs = batch.source, batch.source_mask, batch.target_in
    if r_drop:
        inputs = torch.cat((inputs[0],) * 2), torch.cat((inputs[1],) * 2), torch.cat((inputs[2],) * 2)
    with torch.autocast(batch.source.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        hidden = model.decode(*inputs)
    real = batch.target_mask
    states, matrix = hidden.unflatten(0, (-1, len(real)))[:, real], model.output.weight
    if model.output.bias is not None:  # a state that is always 1, and the bias as its column
        states, matrix = F.pad(states, (0, 1), value=1.0), torch.cat((matrix, model.output.bias[:, None]), 1)
    gold = batch.target_out[real]
    if r_drop:
        return r_drop_loss(states, matrix, gold, smoothing, r_drop, dtype)
    return token_loss(states[0], matrix, gold, smoothing, dtype)


@dataclass
class Trainer:
    """One training run.

    Attributes:
        model: on its device; its weights are those to start from.
        open_batches: the training data, from an epoch and a batch of it on.
        config: resolved: ``precision`` is not ``auto``.
        folder: the run folder; ``last/`` and ``best/`` are written in it.
        validate: measures a model (in evaluation mode) after some update; returns metrics by name, ``config.metric``
            among them.
        higher_is_better: whether a new best of that metric is a higher value.
        write_extras: writes into a model folder what belongs to it beside the weights (tokenizer, ...).
        model_settings: further entries of the model folder's ``config.json``.
        reporter: shows a person what is going on.
        write_weights: writes a model folder's weights and ``config.json``; :func:`save_model`, or what does the same
            of adapters alone.
        processes: those that train together; each has a trainer, and only the first one's writes, measures and reports.
    """

    model: EncoderDecoder
    open_batches: Callable[[int, int], BatchStream]
    config: TrainingConfig
    folder: Path
    validate: Callable[[EncoderDecoder, int], Mapping[str, float]]
    higher_is_better: bool
    write_extras: Callable[[Path], None]
    model_settings: Mapping[str, Any]
    reporter: Reporter
    write_weights: WeightWriter = save_model
    processes: Processes = field(default_factory=Processes)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        assert self.config.precision != "auto"
        self.dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        self.device = next(self.model.parameters()).device
        self.optimizer = make_optimizer(self.model, self.config)
        self.average = WeightAverage(self.model, self.config.ema_decay) if self.config.ema_decay else None
        batches_per_epoch = self.open_batches(0, 0).batches_per_epoch
        self.total_updates = self._count_updates(batches_per_epoch)
        self.validate_every = self.config.validate_every or max(1, batches_per_epoch // self.config.accumulate)
        self._stop_signal: int | None = None
        self._stop_agreed = False
        self._saved_update = 0

    def _count_updates(self, batches_per_epoch: int) -> int:
        epochs = self.config.max_epochs
        by_epochs = None if epochs is None else max(1, batches_per_epoch * epochs // self.config.accumulate)
        return min(limit for limit in (self.config.max_updates, by_epochs) if limit is not None)

    def resume(self) -> None:
        """Go on from ``last/``, whose weights ``model`` holds already."""
        self.progress = load_state(self.folder / "last", self.model, self.optimizer, self.average)
        self._saved_update = self.progress.update

    def take_changes(self, changes: Collection[str]) -> None:
        """Go on from the state of :meth:`resume` with other settings; it is kept, so that a kill changes nothing.

        Where the order of batches is another one, the epoch that was under way ends. A run that had finished goes on.

        Args:
            changes: names of settings.

        Raises:
            ConfigError: the new settings leave nothing to do.
        """
        progress = self.progress
        if progress.update >= self.total_updates:
            raise ConfigError(
                f"{self.folder}: {progress.update:,} updates are done, and the settings end the run at "
                f"{self.total_updates:,}: raise training.max_updates or max_epochs"
            )
        if progress.batch and not ORDER_OF_BATCHES.isdisjoint(changes):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.finished:
            progress.finished, progress.stalled = "", 0
        self._write_last()

    def fit(self) -> Progress:
        """Train until a limit, early stopping, or a signal.

        Returns:
            The progress; ``finished`` is empty where SIGINT or SIGTERM ended the run (its state is saved).

        Raises:
            TrainingError: the loss is not finite, the disk is full, or another process of the run has gone; the last
                checkpoint is whole.
        """
        log = RunLog(self.folder, self.progress.update) if self.processes.is_first else NoLog()
        try:
            self.progress = self.processes.share(self.progress)
            self.processes.align(self._state())
            with self._signals():
                self._loop(log)
        except ProcessLostError as error:
            raise TrainingError(
                f"{error}; the run has stopped, and {self._saved()}: start the same command again"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TrainingError(
                f"{self.folder}: the disk is full; {self._saved()}: make room and start the same command again"
            ) from error
        finally:
            log.close()
        return self.progress

    def _loop(self, log: RunLog | NoLog) -> None:
        progress = self.progress
        stream = self.open_batches(progress.epoch, progress.batch)
        while not progress.finished and not self._stops:
            self.model.train()
            group = list(itertools.islice(stream, self.config.accumulate))
            values = self._update([batch for _, _, batch in group])
            epoch, number, _ = group[-1]
            progress.epoch, progress.batch = epoch, number + 1
            self.reporter.progress("training", progress.update, self.total_updates)
            if progress.update % self.config.log_every == 0:
                record = {"epoch": epoch + 1, **self._window_values(), **values}
                log.record("train", progress.update, record)
                self.reporter.line(training_line(progress.update, self.total_updates, record))
            ends = progress.update >= self.total_updates
            due = progress.update % self.validate_every == 0 and progress.update >= self.config.validate_after
            if due or ends:
                self._validate(log)
            if ends and not progress.finished:
                progress.finished = "all updates done"
            validated = progress.validated == progress.update
            if validated or progress.update % self.config.save_every == 0 or self._stops:
                self._save_last()
        if self._stops and self._saved_update != progress.update:
            self._save_last()  # the signal came between the loop's last look and its end
        if progress.finished and progress.update < self.total_updates:
            self.reporter.progress("training", self.total_updates, self.total_updates)

    @property
    def _stops(self) -> bool:
        """Whether a signal ends the run behind this update, which is the same for all processes."""
        return self._stop_signal is not None if self.processes.size == 1 else self._stop_agreed

    def _saved(self) -> str:
        """What a run that cannot go on leaves behind, for the sentence that ends it."""
        last = self.folder / "last"
        if not has_state(present_folder(last)):
            return "nothing had been saved yet"
        return f"{last} holds update {load_progress(present_folder(last)).update}, whole"

    def _update(self, group: list[Batch]) -> dict[str, float]:
        """One update from one or more batches; the loss is divided by the real target tokens of all of them."""
        start = time.perf_counter()
        update = self.progress.update + 1
        tokens = sum(batch.num_tokens for batch in group)
        total = 0.0
        share = sampled_share(self.config, update, self.total_updates)
        for batch in self.processes.shares(group, update, self.device):
            batch = batch.to(self.device)
            if share:
                batch = mixed_batch(self.model, batch, share, self.config.scheduled_sampling_choice, self.dtype)
            loss, _ = batch_loss(self.model, batch, self.config.label_smoothing, self.dtype, self.config.r_drop)
            (loss / tokens).backward()
            total += loss.item()
        told = self._stop_signal is not None
        total, self._stop_agreed = self.processes.add_up(self.model.parameters(), total, told)
        if self._stop_agreed and self.processes.size > 1:
            self.reporter.line(STOPPING)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        grad_norm = norm.item()
        if not math.isfinite(total) or not math.isfinite(grad_norm):
            raise TrainingError(
                f"update {update}: the loss ({total / tokens:.3g}) or the gradient's norm ({grad_norm:.3g}) is not a "
                f"finite number; the run has stopped, and {self._saved()}: lower training.learning_rate, raise "
                "training.warmup_steps, or set training.precision to float32, and start anew with --overwrite"
            )
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.max_grad_norm, norm)
        rate = learning_rate(self.config, update, self.total_updates)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, update)
        seconds = time.perf_counter() - start
        self.progress.update = update
        self.progress.target_tokens += tokens
        self.progress.seconds += seconds
        self.progress.window_loss += total
        self.progress.window_tokens += tokens
        self.progress.window_seconds += seconds
        sampled = {"scheduled_sampling": share} if self.config.scheduled_sampling else {}
        return {"grad_norm": grad_norm, "learning_rate": rate, **sampled}

    def _window_values(self) -> dict[str, float]:
        progress = self.progress
        values = {
            "loss": progress.window_loss / progress.window_tokens,
            "tokens_per_second": progress.window_tokens / progress.window_seconds,
        }
        progress.window_loss, progress.window_tokens, progress.window_seconds = 0.0, 0, 0.0
        return values

    def _validate(self, log: RunLog | NoLog) -> None:
        progress = self.progress
        if self.processes.is_first:
            with self.processes.all_cores():
                self._measure(log)
        found = progress.best, progress.best_update, progress.stalled, progress.validated, progress.finished
        found = self.processes.share(found)
        progress.best, progress.best_update, progress.stalled, progress.validated, progress.finished = found

    def _measure(self, log: RunLog | NoLog) -> None:
        progress = self.progress
        with self._averaged_weights(), torch.inference_mode():
            self.model.eval()
            values = self.validate(self.model, progress.update)
        value = values[self.config.metric]
        if not math.isfinite(values.get("loss", value)):
            raise TrainingError(
                f"update {progress.update}: the loss on the development set is not a finite number; the run has "
                f"stopped, and {self._saved()}: lower training.learning_rate and start anew with --overwrite"
            )
        sign = 1.0 if self.higher_is_better else -1.0
        better = progress.best is None or sign * value > sign * progress.best
        if better:
            progress.best, progress.best_update, progress.stalled = value, progress.update, 0
            verdict = "new best"
        else:
            progress.stalled += 1
            verdict = f"stalled {progress.stalled}"
        progress.validated = progress.update
        log.record("validation", progress.update, {**values, "new_best": better})
        self.reporter.line(validation_line(progress.update, values, verdict))
        if better:
            with replace_folder(self.folder / "best") as temporary:
                self._write_model(temporary)
        if self.config.patience is not None and progress.stalled >= self.config.patience:
            progress.finished = f"no new best in {progress.stalled} validations"

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Let the model hold the averaged weights for a while."""
        if self.average is None:
            yield
            return
        with torch.no_grad():
            parameters = dict(self.model.named_parameters())
            raw = {name: parameters[name].detach().clone() for name in self.average.weights}
            try:
                for name, tensor in self.average.weights.items():
                    parameters[name].copy_(tensor)
                yield
            finally:
                for name, tensor in raw.items():
                    parameters[name].copy_(tensor)

    def _write_model(self, folder: Path) -> None:
        weights = None if self.average is None else {**dict(self.model.named_parameters()), **self.average.weights}
        self.write_weights(folder, self.model, weights, {**self.model_settings, "update": self.progress.update})
        self.write_extras(folder)

    def _save_last(self) -> None:
        if self.processes.align(self._state()):
            self.reporter.line(
                f"warning: update {self.progress.update:,}: the weights of the {self.processes.size} processes had "
                "drifted apart (machines of different kinds round differently); all go on with the first one's"
            )
        if self.processes.is_first:
            self._write_last()
        self._saved_update = self.progress.update

    def _write_last(self) -> None:
        with replace_folder(self.folder / "last") as temporary:
            self._write_model(temporary)
            save_state(temporary, self.progress, self.model, self.optimizer, self.average)

    def _state(self) -> list[Tensor]:
        """What must be the same in all processes."""
        parameters = list(self.model.parameters())
        moments = [self.optimizer.state.get(parameter, {}) for parameter in parameters]
        adam = [found[name] for found in moments for name in MOMENTS if name in found]
        return [*parameters, *adam, *(() if self.average is None else self.average.weights.values())]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the loop behind a whole update; a second one ends the program at once."""

        def request(number: int, frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = number
            if self.processes.size > 1:  # not before all have been told: torchrun, too, sends one where a process fails
                return
            with suppress(RuntimeError):  # the signal came while the same stream was being written to
                self.reporter.line(STOPPING)

        try:
            previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals go elsewhere
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
