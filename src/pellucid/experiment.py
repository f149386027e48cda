"""A training run from a config: text → tokenizers → batches → model → trainer → run folder.

Joins the floors below; the run folder's layout is in run_folder.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pellucid.config import Config, DecodingConfig, ModelConfig
from pellucid.data.batches import BatchStream, collate, plan_dataset
from pellucid.data.prepare import PreparedData, prepare
from pellucid.data.tokenizer import save_tokenizers
from pellucid.doctor.examination import guard
from pellucid.doctor.settings import Facts, check_settings
from pellucid.errors import ConfigError, DataError
from pellucid.evaluation import higher_is_better, metric_value
from pellucid.files import write_text
from pellucid.loading import base_weights
from pellucid.model.adapter_config import read_adapter_config
from pellucid.model.lora import load_adapter, save_adapter
from pellucid.model.storage import load_model, save_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.run_folder import CONFIG_FILE, RunFolder, open_run
from pellucid.starting import Start, adapter_for, find_start
from pellucid.training.checkpoint import Progress, load_progress
from pellucid.training.log import Reporter, Silent
from pellucid.training.parallel import Processes
from pellucid.training.runtime import fastest_precision, keep_memory, resolve_device, set_threads
from pellucid.training.trainer import Trainer, WeightWriter, batch_loss
from pellucid.training.tuning import check_tuning, tune
from pellucid.translator import TOKENIZER_FOLDER, Translator

__all__ = ["train"]

SAMPLES = 10
"""Development sentences whose translations are written at each validation."""


@dataclass(frozen=True)
class _Course:
    """What the first of several processes has found, and the others go by.

    Attributes:
        config: resolved.
        text: which text it is.
        resumes: whether ``last/`` has a state to go on from.
        finished: where the run is if there is nothing to do.
    """

    config: Config
    text: dict[str, str]
    resumes: bool
    finished: Progress | None = None


def train(
    config: Config,
    reporter: Reporter,
    overwrite: bool = False,
    processes: Processes | None = None,
    accept_changes: bool = False,
) -> Progress:
    """Train, or go on with a run that was interrupted, or do nothing where it has finished.

    Args:
        config: ``output`` and ``data.train`` are needed.
        reporter: shows a person what is going on.
        overwrite: remove a run that is in the folder and start anew (its token cache stays).
        processes: those that train this run together, all called with the same config; default: this one alone.
        accept_changes: go on with a run whose settings have changed, as far as its state allows; a finished one, too.

    Returns:
        Where the run is; ``finished`` is empty where a signal stopped it.

    Raises:
        PellucidError: anything wrong with settings, text, the run folder or the model to start from, found before the
            first update; later a loss that is not finite, a full disk, or another process that has gone.
    """
    processes = processes or Processes()
    if config.output is None:
        raise ConfigError("output is not set: name the run folder, e.g. --output runs/first")
    if not processes.is_first:
        return _follow(processes)
    with open_run(Path(config.output), overwrite, processes.size) as run:
        start = find_start(config, run.path / "config.yaml" if run.resumes else None)
        config = start.config
        check_tuning(config.model, config.training)
        if run.resumes:
            config = run.config(config, accept_changes)
            progress = load_progress(run.path / "last")
            if progress.finished and not run.changes:
                reporter.line(
                    f"{run.path}: this run has finished ({progress.finished}, best {config.training.metric} "
                    f"{progress.best:.2f} at update {progress.best_update:,}); nothing to do"
                )
                processes.share(_Course(config, {}, True, progress))
                return progress
        elif run.begun:  # killed before its first save: it begins again, with what this machine had decided for it
            with suppress(ConfigError):
                config = run.config(config)
        keep_memory()
        config = _with_training(config, threads=_set_threads(config.training.threads, processes))
        if processes.size > 1:
            reporter.line(f"{processes.size} processes, each with {config.training.threads} of the CPU's threads")
        torch.manual_seed(config.seed)
        data = prepare(
            config,
            run.path if run.resumes else run.staging,
            lambda stage, done: reporter.progress(stage, done, 0),
            run.path / "cache",
            start.tokenizers,
            start.tags,
        )
        for sentence in (*start.report, *data.report):
            reporter.line(sentence)
        identity = _identity(data)
        if run.resumes:
            run.check_text(identity)
        else:
            guard(config, data, reporter, run.path)
        trainer, config = _build(config, run.path, run.resumes, data, reporter, start, processes)
        if run.resumes:
            trainer.resume()
            if run.changes:
                _take_changes(trainer, run, config, data, reporter)
            reporter.line(
                f"{run.path}: going on behind update {trainer.progress.update:,} of {trainer.total_updates:,}"
            )
        else:
            run.begin(identity)
        run.write_config(config)
        # "auto" is decided here for all, and every process then takes a device of its own.
        processes.share(_Course(_with_training(config, device=trainer.device.type), identity, run.resumes))
        return trainer.fit()


def _follow(processes: Processes) -> Progress:
    """What the other processes of a run do: they wait until the run folder is ready, and write nothing."""
    course: _Course = processes.share(None)  # type: ignore[assignment]
    if course.finished is not None:
        return course.finished
    config, folder = course.config, Path(str(course.config.output))
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"output = {folder}: process {processes.rank} does not see the files of process 0 in it: all processes "
            "of a run need the same folders"
        )
    keep_memory()
    set_threads(config.training.threads)
    torch.manual_seed(config.seed)
    data = prepare(config, folder)
    if _identity(data) != course.text:
        raise DataError(
            f"{folder}: process {processes.rank} reads other text than process 0: has it just been changed?"
        )
    # Weights to start from have come to the first process, from which all take theirs.
    trainer, _ = _build(config, folder, course.resumes, data, Silent(), Start(config), processes)
    if course.resumes:
        trainer.resume()
    return trainer.fit()


def _take_changes(trainer: Trainer, run: RunFolder, config: Config, data: PreparedData, reporter: Reporter) -> None:
    """Let a run go on with other settings, and write down which."""
    if config.training.checks != "skip":
        for check in check_settings(Facts(config, data)):
            if check.found:
                reporter.line(f"warning: {check.sentence}")
    run.keep_old_config(trainer.progress.update)
    trainer.take_changes(run.changes)
    for name, (old, new) in run.changes.items():
        reporter.line(f"changed: {name} ({old} → {new})")


def _identity(data: PreparedData) -> dict[str, str]:
    return {"the training text": data.train.key, "the development text": data.dev.key}


def _set_threads(threads: int | None, processes: Processes) -> int:
    """Without a number, a machine's cores are divided among its processes."""
    found = set_threads(threads)
    if threads is not None or processes.local_size == 1:
        return found
    return set_threads(max(1, found // processes.local_size))


def _build(
    config: Config,
    folder: Path,
    resumes: bool,
    data: PreparedData,
    reporter: Reporter,
    start: Start,
    processes: Processes,
) -> tuple[Trainer, Config]:
    device = resolve_device(processes.device_name(config.training.device))
    sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
    lora, last = config.training.lora, folder / "last"
    if resumes and lora is None:
        model = _with_dropouts(load_model(last, device)[0], config.model)
    else:
        model = EncoderDecoder(config.model, *sizes)
        if resumes and processes.is_first:
            start = Start(config, weights=base_weights(last))
        start.fill(model)
        model = model.to(device)
    counts = model.parameter_counts()
    what_is_trained = tune(model, config.training)
    write_weights: WeightWriter = save_model
    if lora is not None and processes.is_first:  # from which all take theirs
        adapter = read_adapter_config(last) if resumes else adapter_for(start, model)
        if resumes:
            load_adapter(last, model, adapter)
        write_weights = partial(save_adapter, adapter=adapter)

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
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    reporter.line(f"{sum(counts.values()):,} parameters ({parts}); {config.training.precision}, {device}")
    if what_is_trained is not None:
        reporter.line(what_is_trained)
    validation = _Validation(config, folder, data, device)
    trainer = Trainer(
        model=model,
        open_batches=open_batches,
        config=config.training,
        folder=folder,
        validate=validation,
        higher_is_better=higher_is_better(config.training.metric),
        write_extras=lambda into: _write_tokenizers(into, data),
        model_settings={"decoding": _decoding(config, data).model_dump(mode="json")},
        reporter=reporter,
        write_weights=write_weights,
        processes=processes,
    )
    return trainer, config


def _decoding(config: Config, data: PreparedData) -> DecodingConfig:
    """The settings that the model is used with where nobody says otherwise."""
    decoding = config.decoding
    return decoding if decoding.tag is not None else decoding.replaced({"tag": data.default_tag})


def _write_tokenizers(folder: Path, data: PreparedData) -> None:
    save_tokenizers(folder / TOKENIZER_FOLDER, data.source_tokenizer, data.target_tokenizer, data.rules)


class _Validation:
    """Loss over the development sets and metrics of their decoded texts.

    Where there are several, a metric's own name (``bleu``) is the value that decides: that of
    ``training.metric_corpus``, else the mean of all; those of each corpus stand behind it (``bleu/talks``).
    """

    def __init__(self, config: Config, folder: Path, data: PreparedData, device: torch.device) -> None:
        self.config, self.folder, self.data, self.device = config, folder, data, device
        self.batches = {
            name: plan_dataset(part, config.training.batch_tokens, config.seed, 0)
            for name, part in data.dev_parts.items()
        }

    def __call__(self, model: EncoderDecoder, update: int) -> dict[str, float]:
        """Metrics by name; of text only where one of them decides."""
        each: dict[str, dict[str, float]] = {}
        samples: list[str] = []
        for name, part in self.data.dev_parts.items():
            each[name] = {"loss": self._loss(model, name)}
            if self.config.training.metric != "loss":
                sources = [part.source_text(i) for i in range(len(part))]
                references = [part.target_text(i) for i in range(len(part))]
                texts = self._generate(model, sources, part.tag)
                each[name] |= self._measured(texts, references)
                rows = zip(sources, references, texts, strict=True)
                samples += _blocks(rows, -(-SAMPLES // len(self.data.dev_parts)), name)
        if samples:
            (self.folder / "samples").mkdir(exist_ok=True)
            write_text(self.folder / "samples" / f"update-{update:06d}.txt", "\n".join(samples))
        return _summary(each, self.config.training.metric_corpus)

    def _generate(self, model: EncoderDecoder, sources: list[str], tag: str) -> list[str]:
        data, training = self.data, self.config.training
        decoding = self.config.decoding.replaced({"tag": tag})
        translator = Translator(model, data.source_tokenizer, data.target_tokenizer, decoding, rules=data.rules)
        generations = translator.generate(sources, beam_size=training.validation_beam_size, n_best=1)
        return [generation.text for generation in generations]

    def _measured(self, texts: list[str], references: list[str]) -> dict[str, float]:
        names = ("wer", "ser") if self.config.training.metric in ("wer", "ser") else ("bleu", "chrf")
        return {name: metric_value(name, texts, references) for name in names}

    def _loss(self, model: EncoderDecoder, name: str) -> float:
        """−log p per real target token, without smoothing, in float32."""
        dev, total, tokens = self.data.dev_parts[name], 0.0, 0
        tokenizers = self.data.source_tokenizer, self.data.target_tokenizer
        for indices in self.batches[name]:
            pairs = [dev.source(i) for i in indices.tolist()], [dev.target(i) for i in indices.tolist()]
            batch = collate(*pairs, tokenizers=tokenizers).to(self.device)
            total += batch_loss(model, batch)[1].item()
            tokens += batch.num_tokens
        return total / tokens


def _summary(each: Mapping[str, Mapping[str, float]], chosen: str | None) -> dict[str, float]:
    """The values that decide, and behind them those of each corpus where there are several."""
    (first, *others) = each.values()
    if not others and chosen is None:
        return dict(first)
    if chosen is not None:
        headline = dict(each[chosen])
    else:
        headline = {metric: sum(values[metric] for values in each.values()) / len(each) for metric in first}
    return headline | {f"{metric}/{name}": value for name, values in each.items() for metric, value in values.items()}


def _blocks(rows: Iterable[tuple[str, str, str]], count: int, corpus: str) -> list[str]:
    """The first rows of (source, reference, generated) for people to read."""
    head = f"corpus     {corpus}\n" if corpus else ""
    return [f"{head}source     {s}\nreference  {r}\ngenerated  {t}\n" for s, r, t in itertools.islice(rows, count)]


def _with_dropouts(model: EncoderDecoder, config: ModelConfig) -> EncoderDecoder:
    """A model of a checkpoint with the dropouts that the run has now."""
    dropouts = {name: getattr(config, name) for name in ModelConfig.model_fields if name.endswith("dropout")}
    wanted = model.config.model_copy(update=dropouts)
    if wanted == model.config:
        return model
    made = EncoderDecoder(wanted, model.source_vocab_size, model.target_vocab_size)
    made.load_state_dict(model.state_dict())
    return made.to(model.output.weight.device)


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
