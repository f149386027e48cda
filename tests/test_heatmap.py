"""The attention map in a terminal: cells stand under their tokens, shades mean what the legend says."""

from __future__ import annotations

import numpy as np
import pytest
from rich.cells import cell_len

from pellucid.heatmap import LEGEND, heatmap


def test_each_cell_stands_under_its_token_also_under_wide_ones() -> None:
    lines = heatmap(["▁I", "▁love"], ["爱", "中国", "</s>"], np.array([[0.95, 0.05, 0.0], [0.0, 0.2, 0.8]]))
    assert lines == [
        "     爱 中国 </s>",
        "   I ██",
        "love    ░░░░ ████",
    ]
    column = cell_len("     爱 ")
    assert cell_len(lines[2].split("░")[0]) == column


@pytest.mark.parametrize(
    ("weight", "shade"),
    [(0.0, ""), (0.099, ""), (0.1, "░"), (0.299, "░"), (0.3, "▒"), (0.5, "▓"), (0.699, "▓"), (0.7, "█"), (1.0, "█")],
)
def test_shades_begin_where_the_legend_says(weight: float, shade: str) -> None:
    (_, row) = heatmap(["a"], ["b"], np.array([[weight]]))
    assert row == ("a " + 2 * shade).rstrip()
    assert LEGEND == "░░ ≥ 0.1  ▒▒ ≥ 0.3  ▓▓ ≥ 0.5  ██ ≥ 0.7"


def test_a_lone_word_mark_is_still_seen() -> None:
    assert heatmap(["▁"], ["x"], np.array([[1.0]])) == ["  x", "_ ██"]
