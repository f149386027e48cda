"""Text as its bytes in UTF-8, each a token: ByT5's way (Xue et al. 2022).

Knows nothing of checkpoint folders. Bytes that are no text (half a character) are left out when tokens become text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from pellucid.data.foreign_tokenizers import Atom, ForeignTokenizer, Specials
from pellucid.data.tokenizer_kinds import checked_text

__all__ = ["FIRST_BYTE", "ByteTokenizer"]

FIRST_BYTE = 3
"""The number of the byte 0; before it are ``<pad>``, ``</s>`` and ``<unk>``."""
_LAST = FIRST_BYTE + 255


class ByteTokenizer(ForeignTokenizer):
    """Bytes numbered from 3 on.

    Args:
        specials: see there.
        vocab_size: of the model.
        atoms: tokens that are cut out of a text before it becomes bytes.
    """

    kind = "bytes"

    def __init__(self, specials: Specials, vocab_size: int, atoms: Sequence[Atom] = ()) -> None:
        super().__init__(specials, vocab_size)
        self.atoms = tuple(atoms)
        self._names = {atom.number: atom.text for atom in self.atoms}
        self._numbers = {atom.text: atom.number for atom in self.atoms}
        longest_first = sorted(self.atoms, key=lambda atom: -len(atom.text))
        self._cut = re.compile("|".join(atom.pattern for atom in longest_first)) if self.atoms else None

    def _parts(self, text: str) -> list[tuple[str, int]]:
        """Each token's part of a text, and its number: a character belongs to the first of its bytes."""
        parts: list[tuple[str, int]] = []
        place = 0

        def read(plain: str) -> None:
            for character in plain:
                first, *rest = character.encode()
                parts.append((character, FIRST_BYTE + first))
                parts.extend(("", FIRST_BYTE + byte) for byte in rest)

        for found in self._cut.finditer(checked_text(text)) if self._cut is not None else ():
            read(text[place : found.start()])
            parts.append((found[0], self._checked(self._numbers[found[found.lastindex or 0]])))
            place = found.end()
        read(checked_text(text)[place:])
        return parts

    def encode(self, text: str) -> list[int]:
        return [number for _, number in self._parts(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._bytes(ids).decode(errors="ignore")

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(token - FIRST_BYTE for token in self._kept(ids) if FIRST_BYTE <= token <= _LAST)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(token)) for token in ids]

    def _piece(self, token: int) -> str:
        byte = token - FIRST_BYTE
        if 0x20 < byte < 0x7F:
            return chr(byte)
        if byte == 0x20:
            return "▁"
        return f"<0x{byte:02X}>" if 0 <= byte <= 255 else self._names.get(token, f"<unused {token}>")

    def unknown(self, text: str) -> list[str]:
        return [part for part, number in self._parts(text) if number == self.unk_id]

    def spans(self, text: str) -> list[tuple[int, int]]:
        spans, place = [], 0
        for part, _ in self._parts(text):
            spans.append((place, place + len(part)))
            place += len(part)
        return spans

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        spans: list[tuple[int, int]] = []
        place, content = 0, b""
        for token in ids:
            content += self._bytes([token])
            end = len(content.decode(errors="ignore"))
            spans.append((place, max(place, end)))  # a character belongs to the last of its bytes
            place = max(place, end)
        return self.decode(ids), spans

    @property
    def fingerprint(self) -> str:
        return self._fingerprint(json.dumps([asdict(atom) for atom in self.atoms]).encode())
