"""What becomes of a text that cannot be translated: its error, and nobody else's.

Knows nothing of files, models or how results are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pellucid.errors import ConfigError, LengthError, MissingExtraError, ModelFolderError, PellucidError

__all__ = ["POLICIES", "Failures", "generate_each", "located"]

POLICIES = ("stop", "keep-source", "blank")
SHOWN = 5


class Failures:
    """Counts the lines that could not be translated and remembers the first.

    Args:
        policy: what becomes of them, of :data:`POLICIES`.
        notes: what :meth:`notes` has given in an earlier process.

    Raises:
        ConfigError: no such policy, or not that of the earlier process where that has made use of it.
    """

    def __init__(self, policy: str, notes: Mapping[str, Any]) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"--on-error {policy}: choose {', '.join(POLICIES)}")
        if notes and notes["policy"] != policy:
            raise ConfigError(
                f"--on-error {policy}: {notes['failed']:,} lines are written as --on-error {notes['policy']} wants it: "
                "go on with that"
            )
        self.policy = policy
        self.count = int(notes.get("failed", 0))
        self.first: list[str] = list(notes.get("first", []))

    def add(self, error: PellucidError) -> None:
        """One more line, with its place in the sentence."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(str(error))

    def notes(self) -> dict[str, Any]:
        """All there is to know, for a later process."""
        return {"policy": self.policy, "failed": self.count, "first": list(self.first)} if self.count else {}

    def report(self) -> Iterator[str]:
        """Lines for the end of the run; none if there is nothing to say."""
        if not self.count:
            return
        lines = "1 line was" if self.count == 1 else f"{self.count:,} lines were"
        yield f"{lines} not translated ({'source kept' if self.policy == 'keep-source' else 'left blank'}):"
        yield from (f"  {sentence}" for sentence in self.first)
        if self.count > len(self.first):
            yield f"  and {self.count - len(self.first):,} more"


def located(error: PellucidError, place: str) -> PellucidError:
    """The error with its place in front of it."""
    return PellucidError(f"{place}: {getattr(error, 'reason', error)}")


def generate_each(generate: Callable[[list[str]], Sequence[Any]], texts: Sequence[str], stop: bool) -> list[Any]:
    """What ``generate`` gives for each text; for one that it refuses, the :class:`PellucidError`.

    All are generated together. Where that fails, the text that is too long is left out, and where none is, the texts
    are halved until those are found that fail alone: the others get what they would get without them. A text that is
    left out is a blank one in its place, so that every other keeps its number, to which its samples belong.

    Args:
        generate: a list of texts to a list of results; a blank one costs nothing.
        texts: what to generate for.
        stop: whether texts behind the first that fails are of no interest; their results may be None.
    """
    results: list[Any] = [None] * len(texts)
    waiting = [range(len(texts))]
    refused: set[int] = set()
    while waiting:
        places = waiting.pop()
        wanted = set(places) - refused
        if not wanted:
            continue
        try:
            found = generate([text if place in wanted else "" for place, text in enumerate(texts)])
        except (MissingExtraError, ModelFolderError):
            raise  # no text's fault
        except PellucidError as error:
            too_long = error.number if isinstance(error, LengthError) else None
            if len(wanted) > 1 and too_long is None:
                middle = len(places) // 2
                waiting += [places[middle:], places[:middle]]
                continue
            failed = min(wanted) if too_long is None else too_long - 1
            results[failed] = error
            refused.add(failed)
            if stop:
                waiting = [part[: max(0, failed - part.start)] for part in waiting]
                places = places[: max(0, failed - places.start)]
            waiting.append(places)
        else:
            for place in wanted:
                results[place] = found[place]
    return results
