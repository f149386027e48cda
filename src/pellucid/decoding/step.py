"""What search needs from a model: one function that advances every row by a token, and two ways to rearrange rows.

Anything that keeps this protocol can be searched: a model with a cache, one without, an engine in another language, a
table in a test. This file knows nothing about what is behind it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float32, Int64
from torch import Tensor

__all__ = ["StepFunction"]


@runtime_checkable
class StepFunction(Protocol):
    """A batch of sentences under generation; the source, the prefixes and any cache are its own business.

    Rows are sentence-major: with k rows for each of B sentences, R = B · k and row = sentence · k + beam. Before the
    first call k is 1. Rows of different sentences never mix.
    """

    def __call__(self, tokens: Int64[Tensor, " R"]) -> Float32[Tensor, "R V"]:
        """Append ``tokens[r]`` to row r's prefix (the first call's are ``<s>``) and give log p of each next token.

        Natural logarithms, at most 0; -inf where a token cannot follow. The tensor is the caller's: search writes into
        it, so it must not be a view of anything that is needed later.
        """
        ...

    def reorder(self, parents: Int64[Tensor, " R2"]) -> None:
        """Let row r go on from the prefix of what was row ``parents[r]``.

        R2 may differ from R, so k may change; B stays, and a parent is always a row of the same sentence. A row may be
        the parent of several rows or of none. Not called where nothing would change.
        """
        ...

    def select(self, sentences: Int64[Tensor, " B2"]) -> None:
        """Keep only these sentences, each with all its k rows, in this order; the others are done.

        ``sentences`` are places in the current batch, ascending. Where both are needed between two calls, ``select``
        comes first, and ``reorder`` then counts the rows that are left.
        """
        ...
