"""A training run from a config: text → tokenizers → batches → model → trainer → run folder.

Joins the floors below; knows how a run folder is laid out:

    config.yaml        every setting, resolved (precision and threads included)
    tokenizer/         learned from the training text
    cache/             texts and tokens, memory-mapped, keyed by content
    best/, last/       model folders (weights, config, tokenizer); last/ holds the state to resume from, too
    metrics.jsonl      one record a line: training and validation
    tensorboard/       the same for TensorBoard
    samples/           translations of the first development sentences, a file per validation
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from pellucid.config import Config, dump_config, load_config
from pellucid.data.batches import BatchStream, collate
from pellucid.data.prepare import PreparedData, prepare
from pellucid.data.tokenizer import save_tokenizers
from pellucid.errors import ConfigError, TrainingError
from pellucid.evaluation import higher_is_better, metric_value
from pellucid.files import recover_folder, write_text
from pellucid.model.storage import load_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.checkpoint import Progress, has_state, load_progress
from pellucid.training.log import Reporter
from pellucid.training.runtime import fastest_precision, keep_memory, resolve_device, set_threads
from pellucid.training.trainer import Trainer, batch_loss
from pellucid.translator import TOKENIZER_FOLDER, Translator

__all__ = ["train"]

CONFIG_FILE = "config.yaml"
SAMPLES = 10
"""Development sentences whose translations are written at each validation."""
MACHINE_SETTINGS = ("training.precision", "training.threads")
"""Settings that may be left to this machine in the given config and are decided once, in the run folder's."""


def train(config: Config, reporter: Reporter, overwrite: bool = False) -> Progress:
    """Train, or go on with a run that was interrupted, or do nothing where it has finished.

    Args:
        config: ``output`` and ``data.train`` are needed.
        reporter: shows a person what is going on.
        overwrite: remove a run that is in the folder and start anew (its token cache stays).

    Returns:
        Where the run is; ``finished`` is empty where a signal stopped it.

    Raises:
        PellucidError: anything wrong with settings, text or the run folder, found before the first update; later a loss
            that is not finite, or a full disk.
    """
    if config.output is None:
        raise ConfigError("output is not set: name the run folder, e.g. --output runs/first")
    folder = Path(config.output)
    _make_folder(folder)
    with _locked(folder):
        if overwrite:
            _remove_run(folder)
        recover_folder(folder / "last")
        recover_folder(folder / "best")
        resumes = has_state(folder / "last")
        if not resumes and (folder / CONFIG_FILE).is_file():
            # Killed before its first save: the run begins again, with what this machine had decided for it.
            with suppress(ConfigError):
                config = _stored_config(folder, config)
        if resumes:
            config = _stored_config(folder, config)
            progress = load_progress(folder / "last")
            if progress.finished:
                reporter.line(
                    f"{folder}: this run has finished ({progress.finished}, best {config.training.metric} "
                    f"{progress.best:.2f} at update {progress.best_update:,}); nothing to do"
                )
                return progress
        else:  # a tokenizer without a checkpoint may be of other settings; learning it again gives the same
            shutil.rmtree(folder / TOKENIZER_FOLDER, ignore_errors=True)
        keep_memory()
        threads = set_threads(config.training.threads)
        config = _with_training(config, threads=threads)
        torch.manual_seed(config.seed)
        data = prepare(config, folder, lambda stage, done: reporter.progress(stage, done, 0))
        for sentence in data.report:
            reporter.line(sentence)
        trainer, config = _build(config, folder, data, reporter, resumes)
        write_text(folder / CONFIG_FILE, dump_config(config))
        if resumes:
            trainer.resume()
            reporter.line(f"{folder}: going on behind update {trainer.progress.update:,} of {trainer.total_updates:,}")
        return trainer.fit()


def _build(
    config: Config, folder: Path, data: PreparedData, reporter: Reporter, resumes: bool
) -> tuple[Trainer, Config]:
    device = resolve_device(config.training.device)
    sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
    if resumes:
        model, _ = load_model(folder / "last", device)
    else:
        model = EncoderDecoder(config.model, *sizes).to(device)

    def open_batches(epoch: int, batch: int) -> BatchStream:
        return BatchStream(
            data.train,
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            epoch=epoch,
            batch=batch,
            sampling_alpha=config.tokenizer.sampling_alpha,
            source_tokenizer=data.source_tokenizer,
            target_tokenizer=data.target_tokenizer,
        )

    if config.training.precision == "auto":
        config = _with_training(config, precision=_measure_precision(model, open_batches(0, 0), config, reporter))
    counts = model.parameter_counts()
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    reporter.line(f"{sum(counts.values()):,} parameters ({parts}); {config.training.precision}, {device}")
    validation = _Validation(config, folder, data, device)
    trainer = Trainer(
        model=model,
        open_batches=open_batches,
        config=config.training,
        folder=folder,
        validate=validation,
        higher_is_better=higher_is_better(config.training.metric),
        write_extras=lambda into: _write_tokenizers(into, data),
        model_settings={"decoding": config.decoding.model_dump(mode="json")},
        reporter=reporter,
    )
    return trainer, config


def _write_tokenizers(folder: Path, data: PreparedData) -> None:
    save_tokenizers(folder / TOKENIZER_FOLDER, data.source_tokenizer, data.target_tokenizer)


class _Validation:
    """Loss over the development set and metrics of its decoded text."""

    def __init__(self, config: Config, folder: Path, data: PreparedData, device: torch.device) -> None:
        self.config, self.folder, self.data, self.device = config, folder, data, device
        dev, tokens = data.dev, config.training.batch_tokens
        order = sorted(range(len(dev)), key=lambda i: (dev.target_lengths[i], dev.source_lengths[i]))
        size = max(1, tokens // (int(max(dev.target_lengths.max(), dev.source_lengths.max())) + 1))
        self.batches = [order[start : start + size] for start in range(0, len(order), size)]

    def __call__(self, model: EncoderDecoder, update: int) -> dict[str, float]:
        """Metrics by name; of text only where one of them decides."""
        values = {"loss": self._loss(model)}
        training = self.config.training
        if training.metric == "loss":
            return values
        translator = Translator(model, self.data.source_tokenizer, self.data.target_tokenizer, self.config.decoding)
        generations = translator.generate(self.data.dev_sources, beam_size=training.validation_beam_size, n_best=1)
        texts = [generation.text for generation in generations]
        names = ("wer", "ser") if training.metric in ("wer", "ser") else ("bleu", "chrf")
        values |= {name: metric_value(name, texts, self.data.dev_references) for name in names}
        self._write_samples(update, texts)
        return values

    def _loss(self, model: EncoderDecoder) -> float:
        """−log p per real target token, without smoothing, in float32."""
        dev, total, tokens = self.data.dev, 0.0, 0
        for indices in self.batches:
            batch = collate([dev.source(i) for i in indices], [dev.target(i) for i in indices]).to(self.device)
            total += batch_loss(model, batch)[1].item()
            tokens += batch.num_tokens
        return total / tokens

    def _write_samples(self, update: int, texts: list[str]) -> None:
        rows = zip(self.data.dev_sources, self.data.dev_references, texts, strict=True)
        blocks = [
            f"source     {s}\nreference  {r}\ngenerated  {t}\n"
            for (s, r, t), _ in zip(rows, range(SAMPLES), strict=False)
        ]
        (self.folder / "samples").mkdir(exist_ok=True)
        write_text(self.folder / "samples" / f"update-{update:06d}.txt", "\n".join(blocks))


def _measure_precision(model: EncoderDecoder, stream: BatchStream, config: Config, reporter: Reporter) -> str:
    """Time one forward and backward pass of the first batch in both precisions; leaves no trace in the model."""
    _, _, batch = next(stream)
    batch = batch.to(next(model.parameters()).device)
    state = torch.get_rng_state()

    def step(dtype: torch.dtype) -> None:
        loss, _ = batch_loss(model, batch, config.training.label_smoothing, dtype)
        loss.backward()
        loss.item()

    model.train()
    dtype = fastest_precision(step)
    model.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    name = "bfloat16" if dtype is torch.bfloat16 else "float32"
    reporter.line(f"precision: {name} is the faster here (measured on one batch)")
    return name


def _with_training(config: Config, **values: Any) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update=values)})


def _stored_config(folder: Path, given: Config) -> Config:
    """The run folder's resolved config, if what is given now is the same run."""
    stored = load_config(folder / CONFIG_FILE)
    changes = []
    old, new = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    for name in old:
        left_open = name in MACHINE_SETTINGS and new[name] in ("auto", None)
        if name != "output" and not left_open and old[name] != new[name]:
            changes.append(f"{name} ({old[name]} → {new[name]})")
    if changes:
        raise ConfigError(
            f"{folder}: a run with other settings is in this folder; changed: {', '.join(changes)}: "
            "choose another --output, take the changes back, or start anew with --overwrite"
        )
    return stored.model_copy(update={"output": given.output})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"output = {folder}: a file is in the way; name a folder") from None
    except OSError as error:
        raise ConfigError(f"output = {folder}: cannot be made ({error.strerror})") from None


def _remove_run(folder: Path) -> None:
    for name in ("last", "best"):
        recover_folder(folder / name)
    for name in ("last", "best", TOKENIZER_FOLDER, "samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (CONFIG_FILE, "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same run folder; the lock goes with the process, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{folder}: another process is training in this folder") from None
        yield
