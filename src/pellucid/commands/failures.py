"""What becomes of a text that cannot be translated: its error, and nobody else's.

Knows nothing of files, models or how results are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pellucid.errors import ConfigError, MissingExtraError, ModelFolderError, PellucidError

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


def generate_each(
    generate: Callable[[list[str]], Sequence[Any]],
    texts: Sequence[str],
    stop: bool,
    check: Callable[[Sequence[str]], Mapping[int, PellucidError]] | None = None,
) -> list[Any]:
    """What ``generate`` gives for each text; for one that it refuses, the :class:`PellucidError`.

    All are generated together. Where that fails, all that ``check`` finds are left out at once. Where it finds none,
    the text that the error names is left out and the others are halved, so that many such cost little more than one;
    where the error names none, the texts are halved until those are found that fail alone. The others get what they
    would get without them: a text that is left out is a blank one in its place, so that every other keeps its number,
    to which its samples belong.

    Args:
        generate: a list of texts to a list of results; a blank one costs nothing.
        texts: what to generate for.
        stop: whether texts behind the first that fails are of no interest; their results may be None.
        check: what is wrong with texts that can be seen without generating, by their places.

    Raises:
        PellucidError: no text's fault: a setting that is wrong for every text, something missing.
    """
    results: list[Any] = [None] * len(texts)
    end = len(texts)  # texts from here on are of no interest
    waiting = [list(range(end))]
    while waiting:
        places = [place for place in waiting.pop() if place < end and results[place] is None]
        if not places:
            continue
        wanted = set(places)
        try:
            found = generate([text if place in wanted else "" for place, text in enumerate(texts)])
        except (MissingExtraError, ModelFolderError):
            raise
        except PellucidError as error:
            number = getattr(error, "number", None)
            if isinstance(error, ConfigError) and number is None:
                raise
            refused = {} if check is None else dict(check(texts))
            check = None
            if refused:
                waiting.append(places)
            else:
                if number is not None and number - 1 in wanted:
                    refused = {number - 1: error}
                elif len(places) == 1:
                    refused = {places[0]: error}
                rest = [place for place in places if place not in refused]
                waiting += [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
            for place, fault in refused.items():
                results[place] = fault
            if stop:
                end = min((end, *refused))
        else:
            for place in places:
                results[place] = found[place]
    return results
