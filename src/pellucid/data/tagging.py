"""Tags in a vocabulary: the token of each, and a tokenizer that puts one in front of every text.

A tag is one token, whatever the text is; text that happens to hold a tag's letters is not taken for it where the
vocabulary was learned here, unless it is of symbols: there a tag's letters between spaces are the tag.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

from pellucid.data.tokenizer_kinds import SPECIALS, Tokenizer
from pellucid.errors import ConfigError, TokenizerError
from pellucid.tags import named_tag

__all__ = ["resolve_tag", "tag_ids", "tagged", "without_tags"]

SHOWN = 8


def tag_ids(tokenizer: Tokenizer, tags: Sequence[str]) -> tuple[int, ...]:
    """The token of each tag.

    Raises:
        TokenizerError: the vocabulary has no such piece; the message says what can be done.
    """
    if not tags:
        return ()
    numbers = _numbers(tokenizer)  # type: ignore[arg-type]  # no tokenizer defines what is equal to it
    for tag in tags:
        if tag not in numbers:
            alike = [piece for piece in reversed(numbers) if _looks_like(piece, tag)][:SHOWN]
            has = f"; it has {' '.join(alike)}" if alike else ""
            raise TokenizerError(
                f"the source vocabulary has no piece {tag} for the tag of that name{has}: a vocabulary that is there "
                "already gets no new pieces: choose a tag that it has, leave the tag away, or learn a vocabulary with "
                "it (without training.init_from and training.encoder_from, in a new run folder)"
            )
    return tuple(numbers[tag] for tag in tags)


def tagged(tokenizer: Tokenizer, tag: str | None) -> Tokenizer:
    """The same tokenizer, whose texts have ``tag`` in front; itself without one.

    Raises:
        TokenizerError: the vocabulary has no such piece.
    """
    if not tag:
        return tokenizer
    (number,) = tag_ids(tokenizer, [tag])
    twin = copy.copy(tokenizer)
    twin.prefix_ids = (*tokenizer.prefix_ids, number)
    return twin


def without_tags(target: Tokenizer, source: Tokenizer, tags: Sequence[str]) -> Tokenizer:
    """The tokenizer of the target side, whose tags, where it shares its pieces with the source side, are never written.

    Raises:
        TokenizerError: the source vocabulary has no piece for a tag.
    """
    numbers = zip(tag_ids(source, tags), tags, strict=True)
    shared = [number for number, tag in numbers if number < target.vocab_size and target.pieces([number]) == [tag]]
    if not shared:
        return target
    twin = copy.copy(target)
    twin.suppressed_ids = (*target.suppressed_ids, *shared)
    return twin


def resolve_tag(asked: str | None, tags: Sequence[str]) -> str | None:
    """What is put in front for a setting ``decoding.tag``: None or an empty text puts nothing.

    Raises:
        ConfigError: it is none of ``tags``, those that the model knows.
    """
    if not asked:
        return None
    found = named_tag(asked, tags)
    if found is None:
        known = f"its tags are {', '.join(tags)}" if tags else "it was trained without tags"
        raise ConfigError(f"tag = {asked!r}: the model does not know this tag; {known}")
    return found


def _looks_like(piece: str, tag: str) -> bool:
    marks = piece[:1], piece[-1:]
    return len(piece) >= 3 and marks == (tag[:1], tag[-1:]) and piece not in SPECIALS and not piece.startswith("<0x")


@lru_cache(maxsize=4)
def _numbers(tokenizer: Tokenizer) -> dict[str, int]:
    """The number of every piece."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return {piece: number for number, piece in reversed(list(enumerate(pieces)))}
