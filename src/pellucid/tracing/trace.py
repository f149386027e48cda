"""A trace in the hands of a Python program: the document with ways to draw, show, save and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pellucid.files import write_text
from pellucid.tracing.document import Document
from pellucid.tracing.json_form import dumps, encode, load, save

__all__ = ["Trace"]


class Trace(Document):
    """Everything that a model did with one text; docs/trace.md describes every field.

    Arrays have ``values`` (NumPy) and a name for each of their ``axes``; lists of arrays go by layer.
    """

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a saved trace.

        Raises:
            DataError: not a trace, of another schema version, or damaged.
            OSError: the file cannot be read.
        """
        return load(Path(path), cls)

    def save(self, path: str | Path) -> None:
        """Write the document as JSON, atomically."""
        save(self, Path(path))

    def save_html(self, path: str | Path) -> None:
        """Write the page with this trace inside: one file that needs no network and no server."""
        write_text(Path(path), self.to_html())

    def to_json(self) -> str:
        """The document as JSON, on one line."""
        return dumps(encode(self))

    def to_html(self) -> str:
        """The page with this trace inside."""
        from pellucid.explorer.page import single_page

        return single_page(self.to_json())

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        from pellucid.explorer.page import notebook_frame

        return notebook_frame(self.to_html())

    def plot_attention(self, kind: str = "cross", *, layer: int = -1, head: int | None = None, writing: int = 0) -> Any:
        """Attention weights as a figure of matplotlib.

        Args:
            kind: ``cross``, ``decoder`` or ``encoder``.
            layer: counted from 0, or from the end where negative.
            head: one head; default: all heads side by side.
            writing: which target.

        Raises:
            ConfigError: there is no such kind, layer, head or writing.
            MissingExtraError: matplotlib is not installed.
        """
        from pellucid.tracing.figures import plot_attention

        return plot_attention(self, kind, layer, head, writing)

    def plot_beam(self) -> Any:
        """The search as a figure: a lattice of what was kept, finished and pruned, step by step.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from pellucid.tracing.figures import plot_beam

        return plot_beam(self)

    def plot_cache(self, *, writing: int = 0) -> Any:
        """Bytes of the cache as a figure, and multiply-adds with and without it, step by step.

        Raises:
            ConfigError: there is no such writing.
            MissingExtraError: matplotlib is not installed.
        """
        from pellucid.tracing.figures import plot_cache

        return plot_cache(self, writing)
