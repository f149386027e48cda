"""Tags in front of a source, such as ``<talks>`` or ``<2de>``: what may be one, and what a person calls it.

Knows nothing of vocabularies (``data/tagging.py`` does). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Tag", "check_tags", "named_tag", "tag_name"]

LONGEST = 40
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


def _checked(tag: str) -> str:
    shape = "a tag stands between marks and has neither spaces nor ▁, such as <talks>, >>deu<< or __de__"
    if not 3 <= len(tag) <= LONGEST or any(c.isspace() or c == "▁" or not c.isprintable() for c in tag):
        raise ValueError(shape)
    if tag[0].isalnum() or tag[-1].isalnum() or not tag_name(tag):
        raise ValueError(shape)
    if tag in SPECIALS or tag.startswith("<0x"):
        raise ValueError(f"{tag} is a special token of every vocabulary: choose another tag")
    return tag


Tag = Annotated[str, AfterValidator(_checked)]


def tag_name(tag: str) -> str:
    """A tag without the marks around it: ``talks`` for ``<talks>``."""
    letters = [place for place, character in enumerate(tag) if character.isalnum()]
    return tag[letters[0] : letters[-1] + 1] if letters else ""


def check_tags(tags: Iterable[str]) -> None:
    """See that no two different tags have one name.

    Raises:
        ValueError: two have.
    """
    seen: dict[str, str] = {}
    for tag in tags:
        if (other := seen.setdefault(tag_name(tag), tag)) != tag:
            raise ValueError(f"the tags {other} and {tag} are told apart by their marks alone: rename one")


def named_tag(name: str, tags: Sequence[str]) -> str | None:
    """The one of ``tags`` that is meant by itself or by its name; None if there is none."""
    return name if name in tags else next((tag for tag in tags if tag_name(tag) == name), None)
