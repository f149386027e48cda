"""The folder of a training run: whose it is, what is in it, and whether what is asked now is the same run.

    run.json           says that the folder is a run, and of which text
    config.yaml        every setting, resolved (precision and threads included)
    config-until-N.yaml  those in force up to update N, where the run went on with others
    tokenizer/         learned from the training text
    cache/             texts and tokens, memory-mapped, keyed by content
    best/, last/       model folders (weights or adapters, config, tokenizer); last/ also has the state to resume from
    metrics.jsonl      one record a line: training and validation
    tensorboard/       the same for TensorBoard
    samples/           translations of the first development sentences, a file per validation

Nothing of an earlier run is removed before the new one has passed every check, and nothing that a run has not written
is removed at all. Knows nothing about how a model is trained.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.config import Config, dump_config, load_config
from pellucid.errors import ConfigError, TrainingError
from pellucid.files import recover_folder, write_json, write_text
from pellucid.training.checkpoint import has_state

__all__ = ["CONFIG_FILE", "RunFolder", "open_run"]

MARKER = "run.json"
CONFIG_FILE = "config.yaml"
TOKENIZER = "tokenizer"
FOLDERS = ("best", "last", TOKENIZER, "samples", "tensorboard")
FILES = (CONFIG_FILE, "metrics.jsonl")

DECIDED_HERE = ("training.precision", "training.threads")
"""Settings that a config may leave to the machine; the run folder's config has what was decided, for good."""

FREE = (
    "output",
    "data.dir",
    "data.train.",
    "data.dev.",
    "data.test",
    "model.preset",
    "training.log_every",
    "training.save_every",
    "training.checks",
    "training.device",
    "decoding.",
)
"""Settings that may change between two starts of a run: where its text lies (which text it is, ``run.json`` knows), and
what does not touch the weights' course. (A preset is the sizes that it stands for, and these are compared.)"""

ACCEPTABLE = {
    *("seed", "data.drop_final_punctuation", "tokenizer.sampling_alpha"),
    *(f"model.{name}dropout" for name in ("", "attention_", "ff_", "word_")),
    "training.lora.dropout",
    *(
        f"training.{name}"
        for name in (
            *("batch_tokens", "accumulate", "max_updates", "max_epochs", "precision", "threads", "ema_decay"),
            *("learning_rate", "schedule", "warmup_steps", "final_learning_rate", "weight_decay", "max_grad_norm"),
            *("adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing", "r_drop", "scheduled_sampling"),
            *(f"scheduled_sampling_{name}" for name in ("schedule", "start", "choice")),
            *("validate_every", "validate_after", "validation_beam_size", "patience"),
        )
    ),
}
"""Settings with which a run can go on otherwise than it began, where that is asked for: its state keeps its meaning."""

FIXED = {
    "data.": "which text the run reads",
    "tokenizer.": "the tokenizer, whose token numbers the weights know",
    "model.": "the shape of the weights and what they mean",
    "training.init_from": "where the run has begun",
    "training.encoder_from": "where the run has begun",
    "training.freeze": "which weights have been trained, and the optimiser's state is of these",
    "training.lora": "which weights have been trained, and the optimiser's state is of these",
    "training.metric": "what best/ has been chosen by",
    "training.": "what the state in last/ means",
}
"""What the other settings decide, for good; the first that fits."""


_TAGS = re.compile(r"data\.(train|dev|corpora\..*)\.tag")  # a part of the text
_OF_CORPORA = re.compile(r"data\.corpora\.[^.]+\.(source|target|path|source_column|target_column|dev\..*)")


class RunFolder:
    """One run's folder, held by this process.

    Attributes:
        path: the folder.
        staging: where a new run's tokenizer is made before anything of an old run goes.
        resumes: whether there is a state to go on from.
        begun: whether a run has begun here, perhaps without coming to a first save.
        processes: how many train it now.
        changes: settings with which the run goes on otherwise than before: by name the old value and the new one.
    """

    def __init__(self, path: Path, overwrite: bool, processes: int = 1) -> None:
        self.path = path
        self.processes = processes
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.staging = path / ".new"
        shutil.rmtree(self.staging, ignore_errors=True)
        for name in ("last", "best"):
            recover_folder(path / name)
        for place in (path, path / "samples"):
            for file in place.glob(".*.tmp"):  # what a killed process was writing
                if file.is_file():
                    file.unlink()
        self.resumes = has_state(path / "last") and not overwrite
        self.begun = (path / CONFIG_FILE).is_file() and not overwrite

    def config(self, given: Config, accept: bool = False) -> Config:
        """The config to go on with: what the machine has decided before, and otherwise what is given.

        Args:
            given: as it was asked for now.
            accept: whether the run may go on otherwise than it began; :attr:`changes` then has what is different.

        Raises:
            ConfigError: the run in the folder has other settings that matter, and they are not accepted or cannot be;
                every one is named.
        """
        stored = load_config(self.path / CONFIG_FILE)
        old, new = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
        left_open = {name for name in DECIDED_HERE if new.get(name) in ("auto", None)}
        changes = {
            name: (old.get(name), new.get(name))
            for name in {**old, **new}
            if old.get(name) != new.get(name) and name not in left_open and not _is_free(name)
        }
        if changes and not (accept and changes.keys() <= ACCEPTABLE):
            raise ConfigError(f"{self.path}: {_refusal(changes)}")
        self.changes = changes
        decided = {name.rpartition(".")[2]: old[name] for name in DECIDED_HERE if name not in changes}
        if self._marker().get("processes", 1) != self.processes:  # which share the machine's cores otherwise
            decided["threads"] = given.training.threads
        return given.model_copy(update={"training": given.training.model_copy(update=decided)})

    def check_text(self, identity: Mapping[str, str]) -> None:
        """Refuse to go on with other text than the run began with.

        Raises:
            TrainingError: the text or the tokenizer has changed.
        """
        stored = self._marker().get("text", {})
        changed = [name for name, key in identity.items() if stored.get(name) != key]
        if changed:
            raise TrainingError(
                f"{self.path}: {' and '.join(changed)} changed since this run began, so that it cannot go on exactly: "
                "put the old text back, choose another --output, or start anew with --overwrite"
            )

    def begin(self, identity: Mapping[str, str]) -> None:
        """Let the new run take the place of what was there; from here on an old run is gone.

        Args:
            identity: what :meth:`check_text` compares when the run goes on.
        """
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for path in (*(self.path / name for name in FILES), *self.path.glob("config-until-*.yaml")):
            path.unlink(missing_ok=True)
        write_json(self.path / MARKER, {"format": "pellucid run", "version": 1, "text": dict(identity)})
        (self.staging / TOKENIZER).rename(self.path / TOKENIZER)
        shutil.rmtree(self.staging)

    def keep_old_config(self, update: int) -> None:
        """Keep the settings that have been in force up to an update, before :meth:`write_config` replaces them."""
        path = self.path / f"config-until-{update:06d}.yaml"
        if not path.exists():  # else the run was changed here before, and those in between have trained nothing
            write_text(path, (self.path / CONFIG_FILE).read_text(encoding="utf-8"))

    def write_config(self, config: Config) -> None:
        """Keep every setting, resolved, and the number of processes that this was for."""
        write_text(self.path / CONFIG_FILE, dump_config(config))
        write_json(self.path / MARKER, {**self._marker(), "processes": self.processes})

    def _marker(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / MARKER).read_text(encoding="utf-8"))
        return found


@contextmanager
def open_run(path: Path, overwrite: bool, processes: int = 1) -> Iterator[RunFolder]:
    """Make or open a run folder and hold it; another process is refused until this one ends, however it ends.

    Raises:
        ConfigError: the folder cannot be made, or holds files of the names above that are not of a run.
        TrainingError: another process is training in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"output = {path}: a file is in the way; name a folder") from None
    except OSError as error:
        raise ConfigError(f"output = {path}: cannot be made ({error.strerror})") from None
    if not (path / MARKER).is_file():
        foreign = [name for name in (*FILES, *FOLDERS) if (path / name).exists()]
        if foreign:
            raise ConfigError(
                f"output = {path}: this folder is not a run of pellucid (it has no {MARKER}), but has "
                f"{', '.join(foreign)}, which a run would replace: choose another --output"
            )
    try:
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"output = {path}: cannot be written to ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{path}: another process is training in this folder") from None
        if not (path / MARKER).is_file():
            write_json(path / MARKER, {"format": "pellucid run", "version": 1})
        yield RunFolder(path, overwrite, processes)


def _refusal(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Why a run does not go on with these settings, and what to do."""
    listed = ", ".join(f"{name} ({old} → {new})" for name, (old, new) in changes.items())
    reasons: dict[str, list[str]] = {}
    for name in changes:
        if name not in ACCEPTABLE:
            reason = next((why for prefix, why in FIXED.items() if name.startswith(prefix)), FIXED["training."])
            reasons.setdefault(reason, []).append(name)
    told = "".join(
        f"; {', '.join(names)} cannot change in a run: decide{'s' if len(names) == 1 else ''} {reason}"
        for reason, names in reasons.items()
    )
    go_on = "" if reasons else "go on with them by --accept-changes, "
    return (
        f"a run with other settings is in this folder; changed: {listed}{told}: take the changes back, {go_on}"
        "choose another --output, or start anew with --overwrite"
    )


def _is_free(name: str) -> bool:
    if _TAGS.fullmatch(name):
        return False
    return name.startswith(FREE) or _OF_CORPORA.fullmatch(name) is not None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
