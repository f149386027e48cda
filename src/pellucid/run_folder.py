"""The folder of a training run: whose it is, what is in it, and whether what is asked now is the same run.

    run.json           says that the folder is a run, and of which text
    config.yaml        every setting, resolved (precision and threads included)
    tokenizer/         learned from the training text
    cache/             texts and tokens, memory-mapped, keyed by content
    best/, last/       model folders (weights, config, tokenizer); last/ holds the state to resume from, too
    metrics.jsonl      one record a line: training and validation
    tensorboard/       the same for TensorBoard
    samples/           translations of the first development sentences, a file per validation

Nothing of an earlier run is removed before the new one has passed every check, and nothing that a run has not written
is removed at all. Knows nothing about how a model is trained.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.config import Config, dump_config, load_config
from pellucid.errors import ConfigError, TrainingError
from pellucid.files import recover_folder, write_json, write_text
from pellucid.training.checkpoint import has_state

__all__ = ["RunFolder", "open_run"]

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
    "training.log_every",
    "training.save_every",
    "training.checks",
    "training.device",
    "decoding.",
)
"""Settings that may change between two starts of a run: where its text lies (which text it is, ``run.json`` knows), and
what does not touch the weights' course."""


class RunFolder:
    """One run's folder, held by this process.

    Attributes:
        path: the folder.
        staging: where a new run's tokenizer is made before anything of an old run goes.
        resumes: whether there is a state to go on from.
        begun: whether a run has begun here, perhaps without coming to a first save.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path = path
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

    def config(self, given: Config) -> Config:
        """The config to go on with: what the machine has decided before, and otherwise what is given.

        Raises:
            ConfigError: the run in the folder has other settings that matter; every one is named.
        """
        stored = load_config(self.path / CONFIG_FILE)
        old, new = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
        changes = []
        for name in {**old, **new}:
            left_open = name in DECIDED_HERE and new.get(name) in ("auto", None)
            if old.get(name) != new.get(name) and not left_open and not name.startswith(FREE):
                changes.append(f"{name} ({old.get(name)} → {new.get(name)})")
        if changes:
            raise ConfigError(
                f"{self.path}: a run with other settings is in this folder; changed: {', '.join(changes)}: "
                "choose another --output, take the changes back, or start anew with --overwrite"
            )
        decided = {name.rpartition(".")[2]: old[name] for name in DECIDED_HERE}
        return given.model_copy(update={"training": given.training.model_copy(update=decided)})

    def check_text(self, identity: Mapping[str, str]) -> None:
        """Refuse to go on with other text than the run began with.

        Raises:
            TrainingError: the text or the tokenizer has changed.
        """
        stored = json.loads((self.path / MARKER).read_text(encoding="utf-8")).get("text", {})
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
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        write_json(self.path / MARKER, {"format": "pellucid run", "version": 1, "text": dict(identity)})
        (self.staging / TOKENIZER).rename(self.path / TOKENIZER)
        shutil.rmtree(self.staging)

    def write_config(self, config: Config) -> None:
        """Keep every setting, resolved."""
        write_text(self.path / CONFIG_FILE, dump_config(config))


@contextmanager
def open_run(path: Path, overwrite: bool) -> Iterator[RunFolder]:
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
        yield RunFolder(path, overwrite)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
