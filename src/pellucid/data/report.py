"""What was found in a corpus while reading and cleaning it: counts by reason, each with the first line it was seen in.

Knows the reasons and their sentences; the policy (drop, keep, stop) is applied where the finding is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["CorpusReport", "Finding", "Reason"]

Reason = Literal["bad_line", "empty", "line_break", "identical", "too_long", "ratio", "leak"]

# One place for the words; {n} is "1 pair" or "12 pairs".
_SENTENCES: dict[str, str] = {
    "bad_line": "dropped {n} whose line is not UTF-8 or has too few columns",
    "empty": "dropped {n} with an empty side",
    "line_break": "put a space for the line breaks inside the text of {n}",
    "identical": "kept {n} whose two sides are the same text",
    "too_long": "dropped {n} longer than data.max_source_tokens or data.max_target_tokens",
    "ratio": "dropped {n} whose sides differ in length by more than data.max_length_ratio",
    "leak": "{n} also in the training corpus: scores on them flatter the model",
}
_DROPPED = ("bad_line", "empty", "too_long", "ratio")


@dataclass
class Finding:
    """How often something was seen, and the 1-based line where it was seen first."""

    count: int
    first_line: int


@dataclass
class CorpusReport:
    """Counts for one corpus; ``read`` includes what was dropped.

    Attributes:
        name: ``train`` or ``dev``, for the sentences.
        read: pairs (lines) read.
        findings: by reason, in order of first appearance.
        place: the file (of two aligned ones the source's), for the sentences. It is no part of the JSON value: that is
            kept with the content, which may be moved.
    """

    name: str
    read: int = 0
    findings: dict[Reason, Finding] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    def add(self, reason: Reason, line: int) -> None:
        """Count one more finding in ``line``."""
        found = self.findings.get(reason)
        if found is None:
            self.findings[reason] = Finding(1, line)
        else:
            found.count += 1

    def count(self, reason: Reason) -> int:
        """How often ``reason`` was seen."""
        found = self.findings.get(reason)
        return 0 if found is None else found.count

    def first(self, reason: Reason) -> str:
        """File and line where ``reason`` was seen first."""
        line = f"line {self.findings[reason].first_line}"
        return f"{self.place}, {line}" if self.place else line

    @property
    def kept(self) -> int:
        """Pairs left after everything that was dropped."""
        return self.read - sum(self.count(reason) for reason in get_args(Reason) if reason in _DROPPED)

    def sentences(self) -> list[str]:
        """The report for people, a sentence each."""
        lines = [f"{self.name}: {_pairs(self.read)} read, {self.kept:,} kept."]
        for reason, found in self.findings.items():
            text = _SENTENCES[reason].format(n=_pairs(found.count))
            lines.append(f"{self.name}: {text} (first: {self.first(reason)}).")
        return lines

    def to_json(self) -> dict[str, Any]:
        """A value for JSON; :meth:`from_json` reads it back."""
        findings = {reason: [found.count, found.first_line] for reason, found in self.findings.items()}
        return {"name": self.name, "read": self.read, "findings": findings}

    @classmethod
    def from_json(cls, value: dict[str, Any], place: str = "") -> CorpusReport:
        """The report that :meth:`to_json` gave, of a corpus that is now in the file ``place``."""
        findings: dict[Reason, Finding] = {
            reason: Finding(*value["findings"][reason]) for reason in value["findings"] if reason in get_args(Reason)
        }
        return cls(value["name"], value["read"], findings, place)


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"
