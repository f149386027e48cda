"""Sources to put to a model: those of a file, those that its training run kept, or made from its own vocabulary."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from pellucid.data.dataset import TextStore
from pellucid.data.tokenizer_kinds import Tokenizer

__all__ = ["kept_sources", "spread", "synthetic_sources"]

MOST_TOKENS = 100
"""Longer sources are passed over: the checks are about all lengths, and take their time."""


def spread(texts: Iterable[str], tokenizer: Tokenizer, wanted: int) -> list[str]:
    """Up to ``wanted`` of the texts, from beginning, middle and end; blank, repeated and very long ones left out."""
    usable = [text for text in dict.fromkeys(texts) if text.strip() and len(text) <= 20 * MOST_TOKENS]
    usable = [text for text in usable if 0 < len(tokenizer.encode(text)) <= MOST_TOKENS]
    wanted = min(wanted, len(usable))
    return [usable[index * len(usable) // wanted] for index in range(wanted)]


def kept_sources(folder: Path) -> list[str]:
    """The development sources of the training run that a folder is, or is part of; empty where there are none."""
    for run in (folder, folder.resolve().parent):
        for name in ("dev-texts", "train-texts"):
            cache = run / "cache" / name
            try:
                texts = TextStore(cache, json.loads((cache / "meta.json").read_text(encoding="utf-8")))
                return [texts.source(index) for index in range(min(len(texts), 2000))]
            except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole
                continue
    return []


def synthetic_sources(tokenizer: Tokenizer, wanted: int, seed: int = 1) -> list[str]:
    """Random tokens of the vocabulary as texts, 1 to 24 tokens long."""
    rng = random.Random(seed)
    return list(spread(_random_texts(tokenizer, 4 * wanted, rng), tokenizer, wanted))


def _random_texts(tokenizer: Tokenizer, count: int, rng: random.Random) -> Iterator[str]:
    special = {tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id}
    words = [token for token in range(tokenizer.vocab_size) if token not in special]
    words = [token for token in rng.sample(words, min(len(words), 2000)) if _is_text(tokenizer.decode([token]))]
    for _ in range(count if words else 0):
        yield tokenizer.decode(rng.choices(words, k=rng.randint(1, 24)))


def _is_text(text: str) -> bool:
    """Whether a token by itself is characters that can be written: no half of a UTF-8 character, no control."""
    return bool(text.strip()) and text.isprintable() and "\ufffd" not in text
