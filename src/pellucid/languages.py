"""Texts in mixed languages, for a model that knows many: each text with its own pair of codes, in one call.

Knows nothing of how a code becomes a token; a pair of languages is a translator of its own around the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.errors import ConfigError, DataError
from pellucid.loading import with_languages
from pellucid.results import Generation
from pellucid.text_generator import TextGenerator
from pellucid.translator import Translator

__all__ = ["generate_in_languages"]

Codes = str | Sequence[str] | None


def generate_in_languages(
    translator: TextGenerator,
    sources: Sequence[str],
    languages: tuple[Codes, Codes],
    prefixes: Sequence[str] | None,
    first_index: int,
    settings: Mapping[str, Any],
) -> list[Generation]:
    """``generate``, with codes: texts of one pair of languages are searched together, once all texts are in order.

    Args:
        languages: of the sources and of the targets: one code, one for each source, or None: the checkpoint's own.

    Raises:
        as ``generate``, and:
        ConfigError: a language that the model does not know; a model whose languages cannot be chosen.
        DataError: not as many codes, or prefixes, as sources.
    """
    if not isinstance(translator, Translator):
        raise ConfigError(f"{translator.folder}: this way of running a model knows one pair of languages")
    codes = [_for_each(side, of, len(sources)) for side, of in zip(("source", "target"), languages, strict=True)]
    if prefixes is not None and len(prefixes) != len(sources):
        raise DataError(f"{len(sources)} sources and {len(prefixes)} prefixes: give one for each, or none")
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for place, pair in enumerate(zip(*codes, strict=True)):
        groups.setdefault(pair, []).append(place)
    prepared = []
    for pair, places in groups.items():
        speaker = _speaker(translator, pair)
        prepared.append((speaker, places, speaker.prepare(sources, prefixes, places, first_index, settings)))
    results: dict[int, Generation] = {}
    for speaker, places, texts in prepared:
        results.update(zip(places, speaker.generate_prepared(texts), strict=True))
    return [results[place] for place in range(len(sources))]


def _for_each(side: str, codes: Codes, count: int) -> list[str | None]:
    if codes is None or isinstance(codes, str):
        return [codes] * count
    if len(codes) != count:
        raise DataError(f"{count} sources and {len(codes)} {side} languages: give one for all, or one for each")
    return list(codes)


def _speaker(translator: Translator, pair: tuple[str | None, str | None]) -> Translator:
    """The translator for a pair, made once, with the settings of the one that was asked; it counts for that one."""
    if pair not in translator.speakers:
        translator.speakers[pair] = with_languages(translator, *pair)
    speaker = translator.speakers[pair]
    decided = {name: getattr(speaker.decoding, name) for name in ("prefix_tokens", "forced_score")}
    speaker.decoding = translator.decoding.replaced(decided)
    speaker.model, speaker.stats = translator.model, translator.stats
    speaker.placeholder_faults = translator.placeholder_faults
    return speaker
