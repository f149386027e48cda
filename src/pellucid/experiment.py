"""A training run from a config: text → tokenizers → batches → model → trainer → run folder.

Joins the floors below; the run folder's layout is in run_folder.py.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pellucid.config import Config
from pellucid.data.batches import BatchStream, collate, plan_epoch
from pellucid.data.prepare import PreparedData, prepare
from pellucid.data.tokenizer import save_tokenizers
from pellucid.doctor.examination import guard
from pellucid.errors import ConfigError
from pellucid.evaluation import higher_is_better, metric_value
from pellucid.files import write_text
from pellucid.model.storage import load_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.run_folder import RunFolder, open_run
from pellucid.starting import Start, find_start
from pellucid.training.checkpoint import Progress, load_progress
from pellucid.training.log import Reporter
from pellucid.training.runtime import fastest_precision, keep_memory, resolve_device, set_threads
from pellucid.training.trainer import Trainer, batch_loss
from pellucid.translator import TOKENIZER_FOLDER, Translator

__all__ = ["train"]

SAMPLES = 10
"""Development sentences whose translations are written at each validation."""


def train(config: Config, reporter: Reporter, overwrite: bool = False) -> Progress:
    """Train, or go on with a run that was interrupted, or do nothing where it has finished.

    Args:
        config: ``output`` and ``data.train`` are needed.
        reporter: shows a person what is going on.
        overwrite: remove a run that is in the folder and start anew (its token cache stays).

    Returns:
        Where the run is; ``finished`` is empty where a signal stopped it.

    Raises:
        PellucidError: anything wrong with settings, text, the run folder or the model to start from, found before the
            first update; later a loss that is not finite, or a full disk.
    """
    if config.output is None:
        raise ConfigError("output is not set: name the run folder, e.g. --output runs/first")
    with open_run(Path(config.output), overwrite) as run:
        start = find_start(config, run.path / "config.yaml" if run.resumes else None)
        config = start.config
        if run.resumes:
            config = run.config(config)
            progress = load_progress(run.path / "last")
            if progress.finished:
                reporter.line(
                    f"{run.path}: this run has finished ({progress.finished}, best {config.training.metric} "
                    f"{progress.best:.2f} at update {progress.best_update:,}); nothing to do"
                )
                return progress
        elif run.begun:  # killed before its first save: it begins again, with what this machine had decided for it
            with suppress(ConfigError):
                config = run.config(config)
        keep_memory()
        config = _with_training(config, threads=set_threads(config.training.threads))
        torch.manual_seed(config.seed)
        data = prepare(
            config,
            run.path if run.resumes else run.staging,
            lambda stage, done: reporter.progress(stage, done, 0),
            run.path / "cache",
            start.tokenizers,
        )
        for sentence in (*start.report, *data.report):
            reporter.line(sentence)
        identity = {
            "the training text": data.train.key,
            "the development text": data.dev.key,
        }
        if run.resumes:
            run.check_text(identity)
        else:
            guard(config, data, reporter, run.path)
        trainer, config = _build(config, run, data, reporter, start)
        if run.resumes:
            trainer.resume()
            reporter.line(
                f"{run.path}: going on behind update {trainer.progress.update:,} of {trainer.total_updates:,}"
            )
        else:
            run.begin(identity)
        run.write_config(config)
        return trainer.fit()


def _build(
    config: Config, run: RunFolder, data: PreparedData, reporter: Reporter, start: Start
) -> tuple[Trainer, Config]:
    device = resolve_device(config.training.device)
    sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
    if run.resumes:
        model, _ = load_model(run.path / "last", device)
    else:
        model = EncoderDecoder(config.model, *sizes)
        start.fill(model)
        model = model.to(device)

    def open_batches(epoch: int, batch: int) -> BatchStream:
        return BatchStream(
            data.train,
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            epoch=epoch,
            batch=batch,
            sampling_alpha=config.tokenizer.sampling_alpha,
            drop_final_punctuation=config.data.drop_final_punctuation,
            source_tokenizer=data.source_tokenizer,
            target_tokenizer=data.target_tokenizer,
        )

    if config.training.precision == "auto":
        config = _with_training(config, precision=_measure_precision(model, open_batches(0, 0), config, reporter))
    counts = model.parameter_counts()
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    reporter.line(f"{sum(counts.values()):,} parameters ({parts}); {config.training.precision}, {device}")
    validation = _Validation(config, run.path, data, device)
    trainer = Trainer(
        model=model,
        open_batches=open_batches,
        config=config.training,
        folder=run.path,
        validate=validation,
        higher_is_better=higher_is_better(config.training.metric),
        write_extras=lambda into: _write_tokenizers(into, data),
        model_settings={"decoding": config.decoding.model_dump(mode="json")},
        reporter=reporter,
    )
    return trainer, config


def _write_tokenizers(folder: Path, data: PreparedData) -> None:
    save_tokenizers(folder / TOKENIZER_FOLDER, data.source_tokenizer, data.target_tokenizer, data.rules)


class _Validation:
    """Loss over the development set and metrics of its decoded text."""

    def __init__(self, config: Config, folder: Path, data: PreparedData, device: torch.device) -> None:
        self.config, self.folder, self.data, self.device = config, folder, data, device
        lengths = data.dev.source_lengths, data.dev.target_lengths
        plan = plan_epoch(*lengths, config.training.batch_tokens, config.seed, 0)
        self.batches: list[list[int]] = [indices.tolist() for indices in plan]

    def __call__(self, model: EncoderDecoder, update: int) -> dict[str, float]:
        """Metrics by name; of text only where one of them decides."""
        values = {"loss": self._loss(model)}
        training = self.config.training
        if training.metric == "loss":
            return values
        translator = Translator(
            model, self.data.source_tokenizer, self.data.target_tokenizer, self.config.decoding, rules=self.data.rules
        )
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
            pairs = [dev.source(i) for i in indices], [dev.target(i) for i in indices]
            tokenizers = self.data.source_tokenizer, self.data.target_tokenizer
            batch = collate(*pairs, tokenizers=tokenizers).to(self.device)
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
