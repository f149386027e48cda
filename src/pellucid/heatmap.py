"""An attention matrix as text: one row per target token, one column per source token, cells shaded.

Knows nothing about models; takes tokens and weights. Chinese characters are two columns wide in a terminal, and the
layout counts them so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len

__all__ = ["LEGEND", "heatmap"]

SHADES = " ░▒▓█"
THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
LEGEND = "  ".join(f"{shade * 2} ≥ {low}" for shade, low in zip(SHADES[1:], THRESHOLDS, strict=True))
"""What the shades mean; below 0.1 a cell is left empty."""


def heatmap(rows: Sequence[str], columns: Sequence[str], weights: np.ndarray) -> list[str]:
    """Lines of text that show ``weights`` [rows, columns], each between 0 and 1.

    Every column is as wide as its token and at least two cells, so that a cell stands under its token.
    """
    assert weights.shape == (len(rows), len(columns))
    labels = [_visible(token) for token in rows]
    heads = [_visible(token) for token in columns]
    left = max(map(cell_len, labels))
    widths = [max(2, cell_len(head)) for head in heads]
    lines = [" " * left + " " + " ".join(_padded(head, width) for head, width in zip(heads, widths, strict=True))]
    for label, values in zip(labels, weights.tolist(), strict=True):
        cells = (_shade(value) * width for value, width in zip(values, widths, strict=True))
        lines.append(" " * (left - cell_len(label)) + label + " " + " ".join(cells))
    return [line.rstrip() for line in lines]


def _shade(weight: float) -> str:
    return SHADES[bisect_right(THRESHOLDS, weight)]


def _visible(token: str) -> str:
    # SentencePiece marks a preceding space with U+2581; a token that is nothing else must still be seen.
    return token.replace("\u2581", "_") if token == "\u2581" else token.replace("\u2581", "")


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
