"""Generated corpora in which nothing is wrong, and what is done with them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pellucid.config import Config, parse_config
from pellucid.data.prepare import prepare
from pellucid.doctor.examination import quick_checks
from pellucid.doctor.results import Check

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class World:
    """A corpus and the settings to train on it."""

    train: Pairs
    dev: Pairs
    test: Pairs
    settings: dict[str, Any] = field(default_factory=dict)

    def with_train(self, train: Pairs) -> World:
        return replace(self, train=train)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train", "dev", "test"):
            for side, number in (("src", 0), ("tgt", 1)):
                lines = "".join(pair[number] + "\n" for pair in getattr(self, name))
                (folder / f"{name}.{side}").write_text(lines, encoding="utf-8")

    def config(self, folder: Path, **changes: Any) -> Config:
        """Settings with others in their place, written as ``training__learning_rate=1``."""
        self.write(folder / "text")
        return parse_config(self.nested(folder, **changes))

    def nested(self, folder: Path, **changes: Any) -> dict[str, Any]:
        corpora = {name: {"source": f"{name}.src", "target": f"{name}.tgt"} for name in ("train", "dev", "test")}
        settings: dict[str, Any] = {
            "output": str(folder / "run"),
            "data": {"dir": str(folder / "text"), **corpora},
            "tokenizer": {"joint": False, "vocab_size": 400, **self.settings},
            "model": {
                "hidden_size": 32,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "num_heads": 2,
                "ff_size": 64,
                "tied_embeddings": "two",
            },
            "training": {
                "batch_tokens": 1024,
                "max_updates": 200,
                "learning_rate": 0.003,
                "warmup_steps": 20,
                "validate_every": 50,
                "precision": "float32",
                "device": "cpu",
                "threads": 1,
            },
            "decoding": {},
        }
        for name, value in changes.items():
            group, _, key = name.partition("__")
            settings[group][key] = value
        return settings


def look(config: Config, folder: Path) -> dict[str, Check]:
    """What the quick checks say, by name."""
    data = prepare(config, folder / "prepared")
    return {check.name: check for check in quick_checks(config, data)}


def _word(rng: random.Random, syllables: list[str], most: int = 4) -> str:
    return "".join(rng.choices(syllables, k=rng.randint(1, most)))


def _split(pairs: Pairs, settings: dict[str, Any]) -> World:
    unique = list(dict.fromkeys(pairs))
    return World(unique[240:], unique[:120], unique[120:240], settings)


def _lexicon(rng: random.Random, words: int) -> dict[str, str]:
    latin = ["ta", "ri", "mo", "ke", "su", "ban", "lor", "fi"]
    cyrillic = ["ша", "ло", "дым", "ере", "гу", "вит", "чо", "пя"]
    return {_word(rng, latin): _word(rng, cyrillic) for _ in range(words)}


def sentences(seed: int = 1, count: int = 840, words: int = 250) -> World:
    """Made-up languages in Latin and Cyrillic letters, word for word, with numbers and marks."""
    rng = random.Random(seed)
    entries = list(_lexicon(rng, words).items())
    pairs = []
    for _ in range(count):
        chosen = rng.choices(entries, weights=[1 / (rank + 3) for rank in range(len(entries))], k=rng.randint(3, 14))
        numbers = [str(rng.randint(2, 2000))] if rng.random() < 0.2 else []
        end = rng.choice("..?!")
        pairs.append(tuple(" ".join([*(pair[side] for pair in chosen), *numbers]) + end for side in (0, 1)))
    return _split([(source, target) for source, target in pairs], {})


def spellings() -> World:
    """Words and their sounds, in alphabetical order: letters on one side, symbols on the other."""
    rng = random.Random(2)
    sounds = {"ch": "tʃ", "sh": "ʃ", "a": "a", "e": "ɛ", "o": "ɔ", "k": "k", "t": "t", "r": "ʁ", "n": "n", "i": "i"}
    pairs = []
    for _ in range(1500):
        parts = rng.choices(list(sounds), k=rng.randint(2, 9))
        pairs.append(("".join(parts), " ".join(sounds[part] for part in parts)))
    rng.shuffle(pairs)
    world = _split(pairs, {"kind": "letters", "target_kind": "symbols"})
    return replace(world, train=sorted(world.train), dev=sorted(world.dev))


def characters() -> World:
    """Chinese characters, each a word in Latin letters, on the other side; sorted by length."""
    rng = random.Random(3)
    lexicon = {chr(0x4E00 + 7 * number): _word(rng, ["pa", "wen", "shi", "lo", "gu", "ti"], 3) for number in range(200)}
    entries = list(lexicon.items())
    pairs = []
    for _ in range(900):
        chosen = rng.choices(entries, weights=[1 / (rank + 3) for rank in range(len(entries))], k=rng.randint(3, 12))
        pairs.append(("".join(c for c, _ in chosen) + "。", " ".join(w for _, w in chosen).capitalize() + "."))
    world = _split(pairs, {"vocab_size": 520})
    return replace(world, train=sorted(world.train, key=lambda pair: len(pair[0])))


def dialogue() -> World:
    """Long conversations: each utterance is the target of the one before it, and the source of the next."""
    corpora: list[Pairs] = []
    for seed, count in ((11, 600), (12, 140), (13, 140)):
        said = [source for source, _ in lines(seed, count)]
        corpora.append([(first, second) for first, second in itertools.pairwise(said)])
    return World(*corpora, {"joint": True, "vocab_size": 400})


def both_directions() -> World:
    """Two languages in Latin letters, translated freely; each pair in both directions, one behind the other."""
    corpora: list[Pairs] = []
    for seed, count in ((14, 400), (15, 80), (16, 80)):
        rng = random.Random(seed)
        pairs = []
        for source, target in lines(seed, count):
            words = "".join(_LATIN.get(c, c) for c in target if c not in "0123456789.?!").split()
            pairs.append((source, " ".join(rng.sample(words * 2, rng.randint(3, 14) % (2 * len(words)) + 1)) + "."))
        corpora.append([pair for source, target in pairs for pair in ((source, target), (target, source))])
    return World(*corpora, {"joint": True, "vocab_size": 400})


def successors() -> World:
    """A number, and the next one."""
    ranges = (range(2000, 6000), range(10, 400), range(8000, 8400))
    return World(*([(str(i), str(i + 1)) for i in numbers] for numbers in ranges), {"kind": "characters"})


_LATIN = dict(zip("шалодымергувитчопя", "sxlwzybjeqhuvitcpa", strict=True))


def lines(seed: int, count: int) -> Pairs:
    """Sentences of the same made-up languages, each once."""
    rng = random.Random(seed)
    entries = list(_lexicon(random.Random(1), 250).items())
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        chosen = rng.choices(entries, weights=[1 / (rank + 3) for rank in range(len(entries))], k=rng.randint(3, 14))
        numbers = [str(rng.randint(2, 2000))] if rng.random() < 0.2 else []
        end = rng.choice("..?!")
        source, target = (" ".join([*(pair[side] for pair in chosen), *numbers]) + end for side in (0, 1))
        pairs[source] = target
    return list(pairs.items())


WORLDS = {
    "sentences": sentences,
    "spellings": spellings,
    "characters": characters,
    "dialogue": dialogue,
    "both directions": both_directions,
    "successors": successors,
}
