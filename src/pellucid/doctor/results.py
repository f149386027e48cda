"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Verdict", "absent", "judge", "percent"]

Verdict = Literal["ok", "suspicious", "wrong", "absent"]
"""``wrong`` is certain and keeps a run from starting; ``suspicious`` may be meant; ``absent``: there was nothing to
look at."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer.

    Attributes:
        name: what was looked at.
        verdict: how it stands.
        figure: what was measured, with its unit and with what is allowed where that is a number.
        sentence: where something was found: what, where, what is allowed, what to do. Where a check is satisfied it is
            empty, or says what is there all the same.
    """

    name: str
    verdict: Verdict
    figure: str
    sentence: str = ""

    @property
    def found(self) -> bool:
        """Whether something was found."""
        return self.verdict in ("suspicious", "wrong")


def judge(name: str, bad: bool, figure: str, sentence: str, certain: bool = False) -> Check:
    """A check that finds something where ``bad``; ``certain`` where nobody can have meant it."""
    if not bad:
        return Check(name, "ok", figure)
    return Check(name, "wrong" if certain else "suspicious", figure, sentence)


def absent(name: str, why: str) -> Check:
    """A check that had nothing to look at."""
    return Check(name, "absent", why)


def percent(part: int | float, whole: int | float) -> str:
    """A share as text, with a decimal."""
    return f"{100 * part / whole if whole else 0:.1f}%"
