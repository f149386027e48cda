"""The engine's functions as Python calls them: their signatures, what they answer, and how Ctrl-C ends them.

Knows ctypes; knows nothing of what is computed.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from numpy.typing import NDArray

__all__ = ["SHORT", "STATUS", "Handle", "declared", "interruptible", "pointer"]

SHORT = 200
"""Positions of source and output up to which one text is searched without looking for Ctrl-C."""
STATUS = {
    1: "the model's log-probabilities contain NaN: its weights or its input are broken; check the checkpoint",
    2: "stopped before its end",
    3: "out of memory: lower batch_size or beam_size, or split long texts",
}


class Handle:
    """The engine's view of a model; lives as long as anything that computes with it.

    Args:
        library: the engine.
        arguments: of ``pellucid_model_new``.
        kept: what they point into.
    """

    def __init__(self, library: Any, arguments: tuple[Any, ...], *kept: Any) -> None:
        self._library, self._kept = library, (arguments, kept)
        self.pointer = ctypes.c_void_p(library.pellucid_model_new(*arguments))

    def __del__(self) -> None:
        if self.pointer:
            self._library.pellucid_model_delete(self.pointer)


def pointer(array: NDArray[Any] | None) -> Any:
    """Where the numbers of an array are; null for None."""
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def interruptible(
    function: Any, arguments: tuple[Any, ...], kept: tuple[Any, ...], stop: Any, long: bool, drop: Any
) -> Any:
    """Call ``function`` so that Ctrl-C ends a long call: the engine looks at ``stop`` at every layer and step.

    ``kept`` is what ``arguments`` point into; the thread holds it for as long as it runs. Not Thread.join: interrupted,
    it takes the thread to have ended (bpo-45274). What comes of a call that was ended goes to ``drop``.
    """
    if not long or threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    answer: list[Any] = []
    done = threading.Event()

    def call(_kept: tuple[Any, ...] = kept) -> None:
        try:
            answer.append(function(*arguments))
        finally:
            done.set()

    threading.Thread(target=call, daemon=True).start()
    interrupt: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except BaseException as error:
            stop.value, interrupt = 1, error
    if interrupt is not None:
        drop(*answer)
        raise interrupt
    return answer[0]


_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "model_new": (_POINTER, [*[_POINTER] * 4, _INT64]),
    "model_delete": (None, [_POINTER]),
    "batch_new": (_POINTER, [*[_POINTER] * 5, _INT64, _POINTER]),
    "batch_delete": (None, [_POINTER]),
    "batch_rows": (_INT64, [_POINTER]),
    "batch_bytes": (None, [_POINTER] * 3),
    "batch_step": (_INT64, [_POINTER] * 3),
    "batch_reorder": (_INT64, [_POINTER, _POINTER, _INT64]),
    "batch_select": (_INT64, [_POINTER, _POINTER, _INT64]),
    "search": (
        _POINTER,
        [*[_POINTER] * 8, _INT64, _POINTER, ctypes.c_double, _POINTER, _INT64, _POINTER, _POINTER],
    ),
    "results_sizes": (None, [_POINTER] * 2),
    "results_copy": (None, [_POINTER] * 7),
    "results_delete": (None, [_POINTER]),
}


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, its functions with the types that they take and give."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"pellucid_{name}")
        function.restype, function.argtypes = result, arguments
    return library
