"""Every error that a user can cause, as one tree.

    PellucidError (ValueError)      one sentence: what, where, what is allowed, what to do
    ├── ConfigError                 a setting: unknown, out of range, contradicting another
    ├── DataError                   text that is missing, unreadable or not what it should be
    │   └── TokenizerError          a tokenizer that cannot be trained, read, or used for this text
    ├── ModelFolderError            a folder that is not a model, is incomplete, or does not fit its config
    ├── LengthError                 a sequence longer than a learned position table or a stated limit
    ├── GenerationError             a text for which nothing can be generated
    ├── TrainingError               a run that cannot go on (loss is not finite, disk full, another run's folder)
    └── MissingExtraError           an optional dependency; the message is the command that installs it

The command line prints the sentence and exits with status 2. Everything else that escapes is a bug in pellucid
and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConfigError",
    "DataError",
    "GenerationError",
    "LengthError",
    "MissingExtraError",
    "ModelFolderError",
    "PellucidError",
    "TokenizerError",
    "TrainingError",
]


class PellucidError(ValueError):
    """Base of all errors caused by input; its text is one sentence made for the user."""


class ConfigError(PellucidError):
    """A setting is unknown, out of range, or contradicts another.

    Args:
        reason: the sentence, without the place.
        number: 1-based number of the one text that the setting does not fit; put in front of the reason. None: it is
            wrong for all.
    """

    def __init__(self, reason: str, *, number: int | None = None) -> None:
        super().__init__(reason if number is None else f"text {number}: {reason}")
        self.reason = reason
        self.number = number


class DataError(PellucidError):
    """Text is missing, unreadable, or not what it should be.

    Args:
        message: the sentence, without the place.
        path: the file the problem is in; put in front of the message.
        line: 1-based line number inside ``path``.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}, line {line}: " if line is not None else f"{path}: "
        super().__init__(place + message)
        self.path = None if path is None else Path(path)
        self.line = line


class TokenizerError(DataError):
    """A tokenizer cannot be trained, read, or used for this text."""


class ModelFolderError(PellucidError):
    """A folder is not a model, is incomplete, or its weights do not fit its configuration."""


class LengthError(PellucidError):
    """A sequence is longer than a learned position table or a stated limit allows.

    Args:
        reason: the sentence, without the place.
        number: 1-based number of the text among those that were given; put in front of the reason.
        side: ``source`` or ``target``, for the number.
    """

    def __init__(self, reason: str, *, number: int | None = None, side: str = "source") -> None:
        super().__init__(reason if number is None else f"{side} {number}: {reason}")
        self.reason = reason
        self.number = number
        self.side = side

    @classmethod
    def beyond_positions(cls, length: int, limit: int) -> LengthError:
        """Of a sequence that does not fit a learned position table."""
        return cls(
            f"a sequence of {length} tokens does not fit the {limit} learned positions of this model: "
            "shorten or split it, or train with more model.max_positions or with positions: sinusoidal"
        )


class GenerationError(PellucidError):
    """A text for which nothing can be generated under the settings given.

    Args:
        reason: the sentence, without the place.
        number: 1-based number of the text in the input; put in front of the reason.
    """

    def __init__(self, reason: str, *, number: int | None = None) -> None:
        super().__init__(reason if number is None else f"text {number}: {reason}")
        self.reason = reason
        self.number = number


class TrainingError(PellucidError):
    """A training run cannot go on."""


class MissingExtraError(PellucidError):
    """An optional dependency is not installed.

    Args:
        extra: the name of the extra that brings it.
        purpose: what needs it, for the sentence.
    """

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs an optional dependency: pip install 'pellucid[{extra}]'")
        self.extra = extra
