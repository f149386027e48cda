"""Figures of a trace for papers, by matplotlib: attention, the search, the cache.

Figures are made without pyplot, so nothing is shown or kept behind the caller's back: ``figure.savefig("x.pdf")``.
Matplotlib's own font has no Chinese, so one that has it stands behind it, where the system has one; where it has none,
matplotlib says so when the figure is saved, and a box stands for each character.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.errors import ConfigError, MissingExtraError
from pellucid.tracing.document import Document, Token, Writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_attention", "plot_beam", "plot_cache"]

CELL = 0.32  # inches
COLOURS = {"kept": "#256e78", "finished": "#2a7d3f", "cut": "#b06a00", "stopped": "#6b6b6b", "pruned": "#c9c9c9"}
CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
    *(
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "SimHei",
        "Noto Sans CJK JP",
        "Noto Serif CJK SC",
        "Arial Unicode MS",
    ),
)


@contextmanager
def _new_figure(width: float, height: float) -> Iterator[Any]:
    """A figure; texts that are made inside have fonts for Chinese, too."""
    try:
        from matplotlib import font_manager, rc_context, rcParams
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("plot", "drawing a figure") from None
    there = {font.name for font in font_manager.fontManager.ttflist}
    families = [*rcParams["font.family"], *(font for font in CHINESE_FONTS if font in there)]
    with rc_context({"font.family": families}):
        yield Figure(figsize=(width, height), layout="constrained")


def _writing(trace: Document, number: int) -> Writing:
    if not 0 <= number < len(trace.writings):
        raise ConfigError(f"there is no writing {number}: this trace has {len(trace.writings)}, counted from 0")
    writing = trace.writings[number]
    if writing is None:
        raise ConfigError(f"writing {number} is not in this trace: save the whole of it")
    return writing


def _labels(tokens: list[Token]) -> list[str]:
    return [token.text or "·" for token in tokens]


def plot_attention(trace: Document, kind: str, layer: int, head: int | None, writing: int) -> Figure:
    """Weights of one head, or of all of a layer, as heat maps."""
    target = _writing(trace, writing)
    inputs, written = _labels(target.input), _labels(target.tgt)
    rows = [f"{read} ▸ {word}" for read, word in zip(inputs, written, strict=True)]
    source = _labels(trace.src)
    kinds = {
        "encoder": (trace.encoder.attn, source, source),
        "decoder": (target.decoder.attn, rows, inputs),
        "cross": (target.cross.attn, rows, source),
    }
    if kind not in kinds:
        raise ConfigError(f"unknown kind of attention {kind!r}: choose from {', '.join(kinds)}")
    layers, rows, columns = kinds[kind]
    if not -len(layers) <= layer < len(layers):
        raise ConfigError(f"there is no layer {layer}: this stack has {len(layers)}, counted from 0")
    weights = layers[layer].values
    if head is not None and not 0 <= head < len(weights):
        raise ConfigError(f"there is no head {head}: a layer has {len(weights)}, counted from 0")
    heads = range(len(weights)) if head is None else [head]
    with _new_figure(len(heads) * (CELL * len(columns) + 0.6) + 1.2, CELL * len(rows) + 1.2) as figure:
        axes = figure.subplots(1, len(heads), squeeze=False, sharey=True)[0]
        for axis, number in zip(axes, heads, strict=True):
            axis.imshow(weights[number], vmin=0.0, vmax=1.0, cmap="Blues", aspect="equal")
            axis.set_xticks(range(len(columns)), columns, rotation=90)
            axis.set_yticks(range(len(rows)), rows)
            axis.set_title(f"layer {layer % len(layers)}, head {number}", fontsize=9)
    return figure  # type: ignore[no-any-return]


def plot_beam(trace: Document) -> Figure:
    """The lattice: a node at (step, rank), an edge to its parent; the best hypothesis drawn thick."""
    nodes = trace.search.nodes
    best: set[int] = set()
    place = trace.search.nbest[0].node if trace.search.nbest else None
    while place is not None:
        best.add(place)
        place = nodes[place].parent
    steps, ranks = max(node.step for node in nodes) + 1, max(node.rank for node in nodes) + 1
    with _new_figure(1.1 * steps + 1.0, 0.5 * ranks + 1.0) as figure:
        axis = figure.subplots()
        for node in nodes:
            if node.parent is not None:
                parent = nodes[node.parent]
                axis.plot(
                    [parent.step, node.step],
                    [parent.rank, node.rank],
                    color=COLOURS[node.status],
                    linewidth=2.4 if node.id in best else 0.8,
                    zorder=1,
                )
            axis.text(
                node.step,
                node.rank,
                f"{node.token.text}\n{node.sum_logp:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if node.status != "pruned" else "#333333",
                bbox={"boxstyle": "round,pad=0.25", "facecolor": COLOURS[node.status], "edgecolor": "none"},
                zorder=2,
            )
        axis.set_xlim(-0.6, steps - 0.4)
        axis.set_ylim(ranks - 0.4, -0.6)
        axis.set_xticks(range(steps))
        axis.set_xlabel("step")
        axis.set_ylabel("rank")
    return figure  # type: ignore[no-any-return]


def plot_cache(trace: Document, writing: int) -> Figure:
    """Bytes of the cache, and multiply-adds of each step, with the cache and without."""
    steps = _writing(trace, writing).kv.steps
    place = np.arange(len(steps))
    with _new_figure(8.0, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        left.bar(place, [step.bytes.cross for step in steps], color="#9bbfc4", label="cross-attention")
        bottom = [step.bytes.cross for step in steps]
        left.bar(place, [step.bytes.self for step in steps], bottom=bottom, color="#256e78", label="self-attention")
        left.set_xlabel("step")
        left.set_ylabel("bytes in use")
        left.legend(frameon=False)
        right.plot(place, [step.macs.cached for step in steps], color="#256e78", label="with cache")
        right.plot(place, [step.macs.uncached for step in steps], color="#b06a00", label="without cache")
        right.set_xlabel("step")
        right.set_ylabel("multiply-adds")
        right.legend(frameon=False)
    return figure  # type: ignore[no-any-return]
