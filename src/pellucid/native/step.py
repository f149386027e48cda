"""The step function of the native engine, for searches that run in Python.

Knows token numbers and arrays; knows nothing of text. Every call releases the interpreter's lock.
Shapes: B sentences, R rows (sentence-major), V vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.decoding.next_tokens import ArrayNextTokens
from pellucid.decoding.step import Ints
from pellucid.errors import LengthError, PellucidError
from pellucid.native.arguments import parents_within, sentences_within, tokens_within
from pellucid.native.calls import SHORT, STATUS, Handle, interruptible, pointer

__all__ = ["NativeStep"]


class NativeStep:
    """A :class:`~pellucid.decoding.step.StepFunction` of the engine: one sentence's beams share its source's keys.

    Args:
        library, handle: the engine, and the model in it.
        tables: vectors of positions, of the source's and the target's, as many as are needed; None: of no positions.
        sources: all tokens, and where each source begins; seen to be in order.
        vocabulary: V.
        most_steps: that there will be, and that the model has learned (None: no limit).
    """

    def __init__(
        self,
        library: Any,
        handle: Handle,
        tables: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None],
        sources: tuple[NDArray[np.int32], NDArray[np.int64]],
        vocabulary: int,
        most_steps: tuple[int, int | None],
    ) -> None:
        self._library, self._vocabulary = library, vocabulary
        self._longest, self._max_length = most_steps
        self._sentences, self._width, self._steps = len(sources[1]) - 1, 1, 0
        self._turn = threading.Lock()
        stop = ctypes.c_int32(0)
        self._kept = (handle, *tables, *sources, stop)
        pointers = [pointer(array) for array in (*tables, *sources)]
        arguments = (handle.pointer, *pointers, self._sentences, ctypes.byref(stop))
        long, drop = len(sources[0]) > SHORT, library.pellucid_batch_delete
        self._batch = ctypes.c_void_p(
            interruptible(library.pellucid_batch_new, arguments, self._kept, stop, long, drop)
        )
        if not self._batch:
            raise PellucidError(STATUS[3])

    def __del__(self) -> None:
        if getattr(self, "_batch", None):
            self._library.pellucid_batch_delete(self._batch)
            self._batch = ctypes.c_void_p()

    def __call__(self, tokens: Ints) -> ArrayNextTokens:
        """log p of every next token, after one more token per row.

        Raises:
            LengthError: the model has learned no more positions.
            PellucidError: not one token of the model for each row, more steps than were announced, or out of memory.
        """
        given = tokens_within(tokens, self._vocabulary, "tokens of a step")
        with self._turn:
            rows = self._sentences * self._width
            if len(given) != rows:
                raise PellucidError(f"{len(given)} tokens for {rows} rows: a step takes one for each")
            if self._max_length is not None and self._steps >= self._max_length:
                raise LengthError.beyond_positions(self._steps + 1, self._max_length)
            if self._steps >= self._longest:
                raise PellucidError(f"more steps than the {self._longest} that this batch was started for")
            logprobs = np.empty((rows, self._vocabulary), np.float32)
            self._call("step", pointer(given), pointer(logprobs))
            self._steps += 1
        return ArrayNextTokens(logprobs)

    def reorder(self, parents: Ints) -> None:
        """Row r goes on from what was row ``parents[r]``.

        Raises:
            PellucidError: a parent is of another sentence, or the sentences get unequal numbers of rows.
        """
        with self._turn:
            given, width = parents_within(parents, self._sentences, self._width)
            self._call("reorder", pointer(given), len(given))
            self._width = width

    def select(self, sentences: Ints) -> None:
        """Keep only these sentences.

        Raises:
            PellucidError: one is not there, or named twice.
        """
        with self._turn:
            given = sentences_within(sentences, self._sentences)
            self._call("select", pointer(given), len(given))
            self._sentences = len(given)

    def allocated_bytes(self) -> tuple[int, int]:
        """Bytes of keys and values: of the sources, and of what has been written."""
        source, past = ctypes.c_int64(), ctypes.c_int64()
        with self._turn:
            self._alive()
            self._library.pellucid_batch_bytes(self._batch, ctypes.byref(source), ctypes.byref(past))
        return source.value, past.value

    def _call(self, name: str, *arguments: Any) -> None:
        self._alive()
        status = getattr(self._library, f"pellucid_batch_{name}")(self._batch, *arguments)
        if status:  # half done: nothing can go on from it
            self.__del__()
            raise PellucidError(STATUS[status])

    def _alive(self) -> None:
        if not self._batch:
            raise PellucidError("this batch has ended with an error: start it again")
