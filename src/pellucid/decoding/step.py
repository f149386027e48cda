"""What search needs from a model: one function that advances every row by a token, and two ways to rearrange rows.

Anything that keeps these protocols can be searched: a model with a cache, one without, an engine in another language,
a table in a test. The numbers stay where they were computed; search asks for the few that it needs, in NumPy. This file
knows nothing about what is behind the protocols, and nothing of PyTorch.
Shapes: B beams, k rows each, R = B · k rows, V vocabulary, C choices.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import PellucidError

__all__ = ["Choices", "Floats", "Ints", "NextTokens", "StepFunction", "check_largest"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Choices(NamedTuple):
    """Continuations that were asked for, best first: each an array [B, C].

    Attributes:
        rows: the row within its beam.
        tokens: the token.
        logprobs: its log p as changed by the methods of :class:`NextTokens`; what search adds up.
        model_logprobs: its log p as the model gave it.
    """

    rows: Ints
    tokens: Ints
    logprobs: Floats
    model_logprobs: Floats


@runtime_checkable
class NextTokens(Protocol):
    """log p of each row's next token [R, V] after one step: natural logarithms, at most 0, -inf where impossible.

    The methods that change it are for one step only; the next call of the step function starts afresh.
    """

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    def remember(self) -> None:
        """Keep log p as it is now, as the model's own, beside what the methods below make of it; once is enough."""
        ...

    def forbid_everywhere(self, tokens: Ints) -> None:
        """No row goes on with any of these tokens."""
        ...

    def forbid(self, rows: Ints, tokens: Ints) -> None:
        """Row ``rows[i]`` does not go on with ``tokens[i]``."""
        ...

    def allow_only(self, rows: Ints, tokens: Ints, *, free: bool = False) -> None:
        """Row ``rows[i]`` goes on with ``tokens[i]`` alone, whatever was done before; rows are distinct.

        It is ranked by its log p as remembered, or as 0 (``free``).
        """
        ...

    def scale(self, rows: Ints, tokens: Ints, factor: float) -> None:
        """Multiply log p of ``tokens[i]`` after row ``rows[i]``, having remembered it; pairs are distinct."""
        ...

    def renormalize(self) -> None:
        """Make the probabilities of each row, as changed, sum to 1 again; a row without any stays as it is."""
        ...

    def best(self, offsets: Floats, count: int) -> Choices:
        """The ``count`` largest of log p + offset of each beam, largest first; C = min(count, k · V).

        Equal sums are ordered by lower row, then lower token, so the answer never depends on the algorithm or the
        batch. Where fewer are possible, the last ones have a log p or an offset of -inf.

        Args:
            offsets: [B, k], at most 0; -inf for rows that take no part.
            count: the most continuations wanted.

        Raises:
            PellucidError: there is a NaN.
        """
        ...

    def take(self, tokens: Ints) -> tuple[Floats, Floats]:
        """Log p of ``tokens`` [R, C] after each row: as changed, and as the model gave it."""
        ...

    def read(self) -> NDArray[np.float32]:
        """All of it, as changed, [R, V]; not to be written to.

        Raises:
            PellucidError: there is a NaN.
        """
        ...


@runtime_checkable
class StepFunction(Protocol):
    """A batch of sentences under generation; the source, the prefixes and any cache are its own business.

    Rows are sentence-major: with k rows for each of B sentences, R = B · k and row = sentence · k + beam. At first k
    is 1. Rows of different sentences never mix.
    """

    def __call__(self, tokens: Ints) -> NextTokens:
        """Append ``tokens[r]`` to row r's prefix (the first call's are ``<s>``) and give log p of each next token."""
        ...

    def reorder(self, parents: Ints) -> None:
        """Let row r go on from the prefix of what was row ``parents[r]``.

        Their number may differ from R, so k may change; B stays, and a parent is always a row of the same sentence. A
        row may be the parent of several rows or of none. May come before the first call (then k rows of a sentence are
        equal). Not called where nothing would change.
        """
        ...

    def select(self, sentences: Ints) -> None:
        """Keep only these sentences, each with all its k rows, in this order; the others are done.

        ``sentences`` are places in the current batch, ascending. Where both are needed between two calls, ``select``
        comes first, and ``reorder`` then counts the rows that are left.
        """
        ...


def check_largest(largest: float) -> None:
    """Refuse what cannot be log-probabilities, given the largest of all of them (NaN if any is).

    Raises:
        PellucidError: it is NaN.
    """
    if np.isnan(largest):
        raise PellucidError(
            "the model's log-probabilities contain NaN: its weights or its input are broken; check the checkpoint"
        )
    # A log p just above 0 is rounding, and is counted as 0; the bound that stops a sentence relies on there being none.
    assert largest < 1e-3, "the step function must give log-probabilities, not logits"
