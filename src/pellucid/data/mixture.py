"""Several corpora as one data set: which of their pairs an epoch has, and how often.

Corpus i has nᵢ pairs and the weight wᵢ. Its share is pᵢ = wᵢ nᵢ^(1/T) / Σⱼ wⱼ nⱼ^(1/T) (Arivazhagan et al. 2019,
"Massively Multilingual Neural Machine Translation in the Wild", section 4.2; mBART and M2M-100 do likewise). An epoch
has N = Σ nᵢ pairs: N pᵢ of corpus i, rounded so that the sums over epochs never stray from the formula by a whole pair.

Every corpus is walked through in permutations: each of its pairs comes once before any comes again, also where an epoch
ends in the middle of a permutation. So a large corpus that is given less than its size loses nothing, it takes more
than one epoch; a small one is repeated. What an epoch has depends on the seed and the epoch alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from pellucid.data.dataset import TokenDataset
from pellucid.data.report import CorpusReport

__all__ = ["Joined", "Mixture", "mixture_table", "shares"]

_STREAM = 4  # of the run's random numbers; 0 to 2 are in batches.py, 3 is in training/parallel.py


def shares(sizes: Sequence[int], weights: Sequence[float], temperature: float) -> list[Fraction]:
    """Each corpus's share of an epoch, by the formula above; exact where the temperature is 1."""
    parts = [
        Fraction(weight) * Fraction(size if temperature == 1.0 else size ** (1.0 / temperature))
        for size, weight in zip(sizes, weights, strict=True)
    ]
    return [part / sum(parts) for part in parts]


class Joined(TokenDataset):
    """Data sets one behind the other: a pair's number is its place in the whole.

    Args:
        parts: by name, in order; at least one, each with a pair at least.
        name: of the whole, in reports.
    """

    def __init__(self, parts: Mapping[str, TokenDataset], name: str) -> None:
        self.parts = dict(parts)
        self._list = list(parts.values())
        first = self._list[0]  # all are cut to the same limits
        sizes = [len(part) for part in self._list]
        self._ends = np.cumsum(sizes)
        self.source_lengths = np.concatenate([part.source_lengths for part in self._list])
        self.target_lengths = np.concatenate([part.target_lengths for part in self._list])
        self.max_source_tokens, self.max_target_tokens = first.max_source_tokens, first.max_target_tokens
        keys = [[of, part.key] for of, part in self.parts.items()]
        self.key = hashlib.sha256(json.dumps(keys).encode()).hexdigest()
        self.report = CorpusReport(name, sum(part.report.read for part in self._list))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[TokenDataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"no pair {index}: there are {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._list[number], index - (int(self._ends[number - 1]) if number else 0)

    def source(self, index: int) -> np.ndarray:
        part, place = self._find(index)
        return part.source(place)

    def target(self, index: int) -> np.ndarray:
        part, place = self._find(index)
        return part.target(place)

    def source_text(self, index: int) -> str:
        part, place = self._find(index)
        return part.source_text(place)

    def target_text(self, index: int) -> str:
        part, place = self._find(index)
        return part.target_text(place)

    def read_pair(self, index: int) -> tuple[str, str]:
        part, place = self._find(index)
        return part.read_pair(place)

    def line(self, index: int) -> int:
        part, place = self._find(index)
        return part.line(place)

    def place(self, index: int) -> str:
        part, place = self._find(index)
        return part.place(place)

    def tag_of(self, index: int) -> str:
        part, place = self._find(index)
        return part.tag_of(place)


class Mixture(Joined):
    """Corpora to train on, in the proportions of the formula above.

    Args:
        parts: as for :class:`Joined`.
        weights: for each.
        temperature: T, at least 1.
    """

    def __init__(self, parts: Mapping[str, TokenDataset], weights: Sequence[float], temperature: float) -> None:
        super().__init__(parts, "train")
        self._sizes = [len(part) for part in self._list]
        self.shares = shares(self._sizes, weights, temperature)

    def counts(self, epoch: int) -> list[int]:
        """How many pairs of each corpus an epoch has."""
        begun, ended = self._walked(epoch), self._walked(epoch + 1)
        return [stop - start for start, stop in zip(begun, ended, strict=True)]

    def rows_of_epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The pairs of an epoch, corpus by corpus; one that comes twice is there twice."""
        begun, ended = self._walked(epoch), self._walked(epoch + 1)
        chosen = [
            self._walk(number, start, stop, seed) + (int(self._ends[number - 1]) if number else 0)
            for number, (start, stop) in enumerate(zip(begun, ended, strict=True))
        ]
        return np.concatenate(chosen)

    def _walked(self, epoch: int) -> list[int]:
        """How far each corpus has been walked when an epoch begins, in pairs."""
        return [round(epoch * len(self) * share) for share in self.shares]

    def _walk(self, number: int, start: int, stop: int, seed: int) -> np.ndarray:
        """Steps ``start`` to ``stop`` of a corpus's endless row of permutations."""
        size = self._sizes[number]
        pieces = [np.empty(0, dtype=np.int64)]
        for lap in range(start // size, -(-stop // size)):
            key = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAM, number, lap))
            order = np.random.Generator(np.random.Philox(key)).permutation(size)
            pieces.append(order[max(0, start - lap * size) : stop - lap * size])
        return np.concatenate(pieces)


def mixture_table(mixture: Mixture) -> list[str]:
    """For people: what each corpus gives to an epoch, a line each, and a line that says what an epoch is."""
    rows = [("corpus", "read", "kept", "share", "pairs of an epoch", "tag")]
    for (name, part), share, count in zip(mixture.parts.items(), mixture.shares, mixture.counts(0), strict=True):
        times = f"{count:,} ({count / len(part):.2f} × kept)"
        rows.append((name, f"{part.report.read:,}", f"{len(part):,}", f"{float(share):.1%}", times, part.tag or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, f"an epoch has {len(mixture):,} pairs, as many as all corpora have together"]
