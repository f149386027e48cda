"""A model that needs no time: what it says shows the text, and the text's place among all that it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pellucid.commands import engines, reading, resuming
from pellucid.config import DecodingConfig
from pellucid.data.text import TextRules
from pellucid.errors import ConfigError, GenerationError, LengthError, PellucidError
from pellucid.translator import GeneratedText, Generation


class Echo:
    """Stands in for a Translator.

    A text with "long" is refused before anything is generated, one with "odd" while it is; "ctrl-c" interrupts, of
    "empty" nothing is made, and a setting is wrong as soon as there is "any" text.
    """

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.calls: list[list[str]] = []
        self.interrupts = True
        self.placeholder_faults: Counter[str] = Counter()
        self.rules = TextRules()

    def settings(self, **settings: Any) -> DecodingConfig:
        return DecodingConfig.model_validate(settings)

    def check_sources(self, sources: Sequence[str], **settings: Any) -> dict[int, PellucidError]:
        return {
            place: LengthError(f"{len(source)} is too long", number=place + 1)
            for place, source in enumerate(sources)
            if "long" in source.lower()
        }

    def generate(self, sources: Sequence[str], *, first_index: int = 0, **settings: Any) -> list[Generation]:
        config = self.settings(**settings)
        if config.prefix == "wrong":
            raise ConfigError("prefix: wrong for every text")
        for error in self.check_sources(sources).values():
            raise error
        if any(source == "any" for source in sources):
            raise ConfigError("max_length: wrong for every text, and seen late")
        self.calls.append([source for source in sources if source])
        results = []
        for place, source in enumerate(sources):
            if "odd" in source.lower():
                raise GenerationError("nothing can be said", number=place + 1)
            if "ctrl-c" in source and self.interrupts:
                self.interrupts = False
                raise KeyboardInterrupt
            said = "" if source == "empty" else f"{source.upper()} {first_index + place}."
            texts = [said and f"{said}{rank}" for rank in range(config.n_best)]
            told = [GeneratedText(text, ["x"], [4], [-0.5], -0.5 - rank, "eos") for rank, text in enumerate(texts)]
            results.append(Generation(source, told if source.strip() else []))
        return results


def install(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """An Echo that is the model of every command line, whatever folder that names; windows have --batch-size lines."""
    model = Echo()
    monkeypatch.setattr(reading, "open_model", lambda *arguments, **languages: model)
    monkeypatch.setattr(engines, "open_generator", lambda *arguments, **options: model)
    monkeypatch.setattr(resuming, "model_fingerprint", lambda translator: translator.name)
    monkeypatch.setattr(reading, "CHUNK_BATCHES", 1)
    return model


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())
