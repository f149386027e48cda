"""Words, characters, or subwords by byte-pair codes, numbered by a table.

So fairseq, OpenNMT-py and JoeyNMT read text where they do not use SentencePiece. Codes are those of subword-nmt
(Sennrich et al. 2016) and fastBPE. Knows nothing of checkpoint folders; splits at spaces and nowhere else: text that
was tokenised (by Moses, say) before codes were learned must be given so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise
from typing import Literal

from pellucid.data.foreign_tokenizers import ForeignTokenizer, Specials
from pellucid.data.tokenizer_kinds import checked_text, find_parts
from pellucid.errors import TokenizerError

__all__ = ["BytePairCodes", "Level", "WordTokenizer"]

Level = Literal["words", "characters"]
_END = "</w>"
_SPACE = "▁"  # what stands for a space where every character is a token


class BytePairCodes:
    """Merges of byte-pair encoding, the first learned first.

    Args:
        content: of the file: ``#version: 0.2`` and two symbols a line (subword-nmt), two symbols without a version
            (its first format), or two symbols and a count (fastBPE).

    Raises:
        TokenizerError: some line is none of these.
    """

    def __init__(self, content: str) -> None:
        lines = content.rstrip("\n").split("\n")
        version = lines[0].removeprefix("#version:").strip() if lines[0].startswith("#version:") else None
        pairs = [line.rstrip("\r").split(" ") for line in lines[version is not None :]]
        for number, pair in enumerate(pairs, 1 + (version is not None)):
            if len(pair) not in (2, 3) or (len(pair) == 3 and not pair[2].isdigit()):
                raise TokenizerError(f"line {number} of the byte-pair codes is not two symbols (and a count)")
        is_first = version == "0.1" or (version is None and bool(pairs) and len(pairs[0]) == 2)
        self.end_is_apart = is_first  # the end of a word as a symbol of its own
        self._ranks = {(pair[0], pair[1]): rank for rank, pair in reversed(list(enumerate(pairs)))}
        self._parts = {first + second: (first, second) for first, second in self._ranks}

    def split(self, word: str, known: Set[str] | None = None, separator: str = "@@") -> list[str]:
        """The subwords of one word, without separators.

        Args:
            word: without spaces, not empty.
            known: if given, subwords that are not among these (inner ones with separator) are taken apart again.
            separator: see ``known``.
        """
        symbols = [*word, _END] if self.end_is_apart else [*word[:-1], word[-1] + _END]
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged, place = [], 0
            while place < len(symbols):
                is_here = tuple(symbols[place : place + 2]) == best
                merged.append(symbols[place] + (symbols[place + 1] if is_here else ""))
                place += 1 + is_here
            symbols = merged
        if symbols[-1] == _END:
            symbols.pop()
        else:
            symbols[-1] = symbols[-1].removesuffix(_END)
        if known is None:
            return symbols
        last = len(symbols) - 1
        return [
            part for place, part in enumerate(symbols) for part in self._apart(part, known, separator, place == last)
        ]

    def _apart(self, part: str, known: Set[str], separator: str, is_last: bool) -> Iterator[str]:
        if part + ("" if is_last else separator) in known:
            yield part
            return
        pair = self._parts.get(part + (_END if is_last else ""))
        if pair is None:
            yield part
            return
        yield from self._apart(pair[0], known, separator, False)
        if second := pair[1].removesuffix(_END) if is_last else pair[1]:
            yield from self._apart(second, known, separator, is_last)


class WordTokenizer(ForeignTokenizer):
    """A table numbers words, characters or subwords.

    Args:
        table: the piece of each number.
        specials: see there.
        level: what a text is split into.
        codes: content of a file of byte-pair codes; then words are split further, and all subwords of a word but the
            last end in ``separator``.
        separator: see there.
        restricted: whether subwords that are not in the table are split further (JoeyNMT).
    """

    kind = "words"

    def __init__(
        self,
        table: Sequence[str],
        specials: Specials,
        level: Level = "words",
        codes: str | None = None,
        separator: str = "@@",
        *,
        restricted: bool = False,
    ) -> None:
        super().__init__(specials, len(table))
        self.table, self.level, self.codes, self.separator = tuple(table), level, codes, separator
        self.restricted = restricted
        self._byte_pairs = None if codes is None else BytePairCodes(codes)
        self._numbers = {piece: number for number, piece in reversed(list(enumerate(self.table)))}
        self._known = self._numbers.keys() if restricted else None

    def _split(self, text: str) -> list[str]:
        checked_text(text)
        if self.level == "characters":
            return list(text.replace(" ", _SPACE))
        if self._byte_pairs is None:
            return text.split()
        pieces = []
        for word in text.split():
            parts = self._byte_pairs.split(word, self._known, self.separator)
            pieces += [*(part + self.separator for part in parts[:-1]), parts[-1]]
        return pieces

    def _shown(self, piece: str) -> str:
        if self.level == "characters":
            return piece.replace(_SPACE, " ")
        return piece if self.codes is None else piece.removesuffix(self.separator)

    def encode(self, text: str) -> list[int]:
        return [self._numbers.get(piece, self.unk_id) for piece in self._split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        kept = [self.table[token] for token in self._kept(ids)]
        if self.level == "characters":
            return "".join(kept).replace(_SPACE, " ").strip()
        text = " ".join(kept) + " "
        return (text if self.codes is None else text.replace(self.separator + " ", "")).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.table[int(token)] for token in ids]

    def unknown(self, text: str) -> list[str]:
        return [self._shown(piece) for piece in self._split(text) if piece not in self._numbers]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return find_parts(text, [self._shown(piece) for piece in self._split(text)])

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text = self.decode(ids)
        return text, find_parts(text, [self._shown(self.table[int(t)]) if self._kept([t]) else "" for t in ids])

    @property
    def fingerprint(self) -> str:
        rest = [self.table, self.level, self.codes, self.separator, self.restricted]
        return self._fingerprint(json.dumps(rest).encode())
