"""The native engine as Python sees it: a model of packed weights, a step function over it, whole searches.

Knows token numbers and arrays; knows nothing of text, nor PyTorch. Every call releases the interpreter's lock.
Shapes: B sentences, R rows (sentence-major), V vocabulary, M model size (padded).
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.next_tokens import ArrayNextTokens
from pellucid.decoding.rules import Sentence, TokenRules
from pellucid.decoding.search import SearchStats
from pellucid.decoding.step import Ints
from pellucid.errors import ModelFolderError, PellucidError
from pellucid.native.build import load_library
from pellucid.native.packing import PACK_VERSION

__all__ = ["NativeModel", "NativeStep", "searches_natively"]

Numbers32 = NDArray[np.int32]
ACTIVATIONS = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "reglu": 0, "geglu": 1, "geglu_tanh": 2, "swiglu": 3}
PENALTIES = {"average": 0, "power": 1, "gnmt": 2, "none": 3}
STOPS = {"exact": 0, "first_k": 1, "top": 2, "heuristic": 3}
OUTPUT_BIAS = -3
"""Its place among the tensors: behind it are the two tables of learned positions."""
SHORT = 200
"""Positions of source and output up to which one text is searched without looking for Ctrl-C."""

STATUS = {
    1: "the model's log-probabilities contain NaN: its weights or its input are broken; check the checkpoint",
    3: "out of memory: lower batch_size or beam_size, or split long texts",
}


def searches_natively(config: DecodingConfig, rules: TokenRules) -> bool:
    """Whether the whole search runs in the engine; otherwise its step function is searched in Python."""
    return (
        not config.sampling
        and config.diversity_groups == 1
        and config.repetition_penalty == 1.0
        and config.no_repeat_ngram == 0
        and not config.renormalize
        and not rules.forbidden_sequences
    )


class NativeModel:
    """A model whose packed weights are mapped from disk.

    Args:
        path: what :func:`~pellucid.native.packing.pack` wrote.

    Raises:
        NativeUnavailableError: the engine cannot run here.
        ModelFolderError: the file is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._library = _declared(load_library())
        header, start, self._mapped = _map(path)
        self.config = ModelConfig.model_validate(header["model"])
        self.source_vocab_size, self.target_vocab_size = header["sizes"]
        self.precision: str = header["precision"]
        self.weight_bytes = self._mapped.nbytes
        base = self._mapped.ctypes.data + start
        self._pointers = (ctypes.c_void_p * len(header["tensors"]))(
            *(None if place is None else base + place[0] for place in header["tensors"])
        )
        self._tables = [self._table(header["tensors"][place], start) for place in (-2, -1)]
        self._c_sizes = self._sizes(header["packed_tables"])
        self._handle = ctypes.c_void_p(self._library.pellucid_model_new(self._c_sizes, self._reals(), self._pointers))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.pellucid_model_delete(self._handle)
            self._handle = ctypes.c_void_p()

    @contextmanager
    def restricted(self, tokens: Sequence[int]) -> Iterator[None]:
        """Inside, every other token is impossible: a logit of -inf. For checks; no call may be running."""
        bias = np.full(-(-self.target_vocab_size // 64) * 64, -np.inf, np.float32)
        kept = np.ctypeslib.as_array(
            ctypes.cast(ctypes.c_void_p(self._pointers[OUTPUT_BIAS]), ctypes.POINTER(ctypes.c_float)), bias.shape
        )
        bias[list(tokens)] = kept[list(tokens)]
        pointers = type(self._pointers)(*self._pointers)
        pointers[OUTPUT_BIAS] = bias.ctypes.data
        before = self._handle
        self._handle = ctypes.c_void_p(self._library.pellucid_model_new(self._c_sizes, self._reals(), pointers))
        try:
            yield
        finally:
            self._library.pellucid_model_delete(self._handle)
            self._handle = before

    def _sizes(self, packed: Sequence[bool]) -> Any:
        config, is_bytes = self.config, self.precision == "int8"
        numbers = [
            is_bytes,
            is_bytes,
            config.hidden_size,
            config.encoder_layers,
            config.decoder_layers,
            config.num_heads,
        ]
        numbers += [-(-config.head_size // 16) * 16, config.self_kv_heads, config.cross_kv_heads, config.ff_size]
        numbers += [self.source_vocab_size, self.target_vocab_size, ACTIVATIONS[config.activation], config.gated]
        numbers += [config.norm == "rmsnorm", config.norm_placement == "pre", config.embedding_norm, *packed]
        return (ctypes.c_int64 * len(numbers))(*map(int, numbers))

    def _reals(self) -> Any:
        config, root = self.config, math.sqrt(self.config.hidden_size)
        epsilon = config.norm_epsilon or (1e-5 if config.norm == "layernorm" else 1e-6)
        embedding = root if config.scale_embeddings else 1.0
        attention = 1 / math.sqrt(config.head_size) if config.scale_attention else 1.0
        return (ctypes.c_double * 4)(epsilon, embedding, attention, 1 / root if config.scale_output else 1.0)

    def _table(self, place: list[int] | None, start: int) -> NDArray[np.float32] | None:
        if place is None:
            return None
        first = start + place[0]
        width = -(-self.config.hidden_size // 64) * 64
        table: NDArray[np.float32] = self._mapped[first : first + place[1]].view(np.float32).reshape(-1, width)
        return table

    def content(self) -> memoryview:
        """Everything that decides about what it computes, as bytes."""
        return self._mapped.data

    @property
    def max_length(self) -> int | None:
        """Number of positions there are; None: no limit."""
        return self.config.max_positions if self.config.positions == "learned" else None

    def positions(self, side: int, length: int) -> NDArray[np.float32] | None:
        """Vectors [at least ``length``, M] that are added to embeddings: of the source (0) or the target (1)."""
        table = self._tables[side]
        if self.config.positions == "sinusoidal" and (table is None or len(table) < length):
            rows = max(256, 2 * length)
            table = _sines(rows, self.config)
            self._tables = [table, table]  # both sides have the same; replaced at once, so that threads may share it
        return table

    def search(
        self,
        sources: Sequence[Sequence[int]],
        sentences: Sequence[Sentence],
        settings: DecodingConfig,
        rules: TokenRules,
        stats: SearchStats,
        workers: int = 1,
    ) -> list[list[Hypothesis]]:
        """What :func:`~pellucid.decoding.search.search` gives, for the settings of :func:`searches_natively`.

        Args:
            sources: token numbers with everything that stands around them, none of them empty.
            sentences, settings, rules, stats: as there.
            workers: threads; each takes sentences as its own end, at most ``batch_size`` at a time.

        Raises:
            PellucidError: the model gave NaN, or memory ran out.
        """
        limits = np.array([sentence.limit for sentence in sentences], np.int64)
        tokens, starts = _flat(sources)
        prefixes, prefix_starts = _flat([sentence.prefix for sentence in sentences])
        forbidden = np.array(
            [t for t in range(self.target_vocab_size) if not rules.permits(t)]
            if rules.allowed is not None
            else sorted(set(rules.forbidden)),
            np.int32,
        )
        numbers = [settings.beam_size, settings.n_best, rules.eos_id, PENALTIES[settings.length_penalty]]
        numbers += [STOPS[settings.stop], settings.beam == "full", settings.min_length, settings.forced_score == "free"]
        numbers += [settings.force_end, rules.bos_id, max(1, workers), settings.batch_size]
        stop, status = ctypes.c_int32(0), ctypes.c_int64(0)
        source_table = self.positions(0, max(map(len, sources), default=1))
        target_table = self.positions(1, int(limits.max(initial=1)))
        arguments = (
            self._handle,
            _pointer(source_table),
            _pointer(target_table),
            _pointer(tokens),
            _pointer(starts),
            _pointer(limits),
            _pointer(prefixes),
            _pointer(prefix_starts),
            len(sources),
            (ctypes.c_int64 * len(numbers))(*map(int, numbers)),
            settings.length_alpha,
            _pointer(forbidden),
            len(forbidden),
            ctypes.byref(stop),
            ctypes.byref(status),
        )
        kept = (
            self,
            source_table,
            target_table,
            tokens,
            starts,
            limits,
            prefixes,
            prefix_starts,
            forbidden,
            stop,
            status,
        )
        long = len(sources) > 1 or len(tokens) + int(limits.max(initial=1)) > SHORT
        results = ctypes.c_void_p(_interruptible(self._library.pellucid_search, arguments, kept, stop, long))
        try:
            if status.value:
                raise PellucidError(STATUS[status.value])
            return self._collected(results, len(sources), stats)
        finally:
            self._library.pellucid_results_delete(results)

    def _collected(self, results: Any, count: int, stats: SearchStats) -> list[list[Hypothesis]]:
        sizes = (ctypes.c_int64 * 9)()
        self._library.pellucid_results_sizes(results, sizes)
        hypotheses, tokens, logprobs, steps, rows, sentence_steps, settled_steps, *_ = sizes
        counts, lengths, ended = (
            np.empty(count, np.int64),
            np.empty(hypotheses, np.int64),
            np.empty(hypotheses, np.int64),
        )
        scores, ids, logs = np.empty(hypotheses), np.empty(tokens, np.int32), np.empty(logprobs, np.float32)
        arrays = (counts, lengths, ended, scores, ids, logs)
        self._library.pellucid_results_copy(results, *[_pointer(array) for array in arrays])
        stats.sentences += count
        stats.steps += steps
        stats.rows += rows
        stats.live_rows += rows
        stats.sentence_steps += sentence_steps
        stats.settled_steps += settled_steps
        all_ids, all_logs = ids.tolist(), logs.astype(np.float64).tolist()
        found: list[list[Hypothesis]] = []
        rest = zip(lengths.tolist(), ended.tolist(), scores.tolist(), strict=True)
        token = logprob = 0
        for number in counts.tolist():
            one: list[Hypothesis] = []
            for _ in range(number):
                length, has_ended, score = next(rest)
                logs_of = all_logs[logprob : logprob + length + has_ended]
                one.append(
                    Hypothesis(all_ids[token : token + length], logs_of, score, "eos" if has_ended else "length")
                )
                token, logprob = token + length, logprob + length + has_ended
            found.append(one)
        return found

    def start(self, sources: Sequence[Sequence[int]], longest: int) -> NativeStep:
        """The step function of a batch, for at most ``longest`` steps."""
        return NativeStep(self, self._library, self._handle, sources, longest)


class NativeStep:
    """A :class:`~pellucid.decoding.step.StepFunction` of the engine: one sentence's beams share its source's keys.

    Args:
        model: kept alive.
        library, handle: its own.
        sources: token numbers, none of them empty.
        longest: the most steps there will be.
    """

    def __init__(
        self, model: NativeModel, library: Any, handle: Any, sources: Sequence[Sequence[int]], longest: int
    ) -> None:
        self._model, self._library = model, library
        tokens, starts = _flat(sources)
        self._positions = model.positions(0, max(map(len, sources))), model.positions(1, longest)
        pointers = [_pointer(table) for table in self._positions]
        self._batch = ctypes.c_void_p(
            library.pellucid_batch_new(handle, *pointers, _pointer(tokens), _pointer(starts), len(sources))
        )
        if not self._batch:
            raise PellucidError(STATUS[3])

    def __del__(self) -> None:
        if getattr(self, "_batch", None):
            self._library.pellucid_batch_delete(self._batch)
            self._batch = ctypes.c_void_p()

    def __call__(self, tokens: Ints) -> ArrayNextTokens:
        """log p of every next token, after one more token per row."""
        given = np.ascontiguousarray(tokens, np.int32)
        logprobs = np.empty((self._library.pellucid_batch_rows(self._batch), self._model.target_vocab_size), np.float32)
        assert len(given) == len(logprobs)
        self._check(self._library.pellucid_batch_step(self._batch, _pointer(given), _pointer(logprobs)))
        return ArrayNextTokens(logprobs)

    def reorder(self, parents: Ints) -> None:
        """Row r goes on from what was row ``parents[r]``."""
        given = np.ascontiguousarray(parents, np.int64)
        self._check(self._library.pellucid_batch_reorder(self._batch, _pointer(given), len(given)))

    def select(self, sentences: Ints) -> None:
        """Keep only these sentences."""
        given = np.ascontiguousarray(sentences, np.int64)
        self._check(self._library.pellucid_batch_select(self._batch, _pointer(given), len(given)))

    def allocated_bytes(self) -> tuple[int, int]:
        """Bytes of keys and values: of the sources, and of what has been written."""
        source, past = ctypes.c_int64(), ctypes.c_int64()
        self._library.pellucid_batch_bytes(self._batch, ctypes.byref(source), ctypes.byref(past))
        return source.value, past.value

    def _check(self, status: int) -> None:
        if status:
            raise PellucidError(STATUS[status])


def _map(path: Path) -> tuple[dict[str, Any], int, NDArray[np.uint8]]:
    try:
        with path.open("rb") as file:
            mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        length = int.from_bytes(mapped[:8].tobytes(), "little")
        header = json.loads(mapped[8 : 8 + length].tobytes())
        ends = [sum(place) for place in header["tensors"] if place is not None]
        whole = header["version"] == PACK_VERSION and 8 + length + max(ends) <= len(mapped)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ModelFolderError(f"{path}: packed weights that are damaged or of another version: delete the file")
    return header, 8 + length, mapped


def _flat(lists: Sequence[Sequence[int]]) -> tuple[Numbers32, NDArray[np.int64]]:
    """All numbers one after the other, and where each list begins; and the end."""
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=starts[1:])
    return np.array([number for one in lists for number in one], np.int32), starts


def _pointer(array: NDArray[Any] | None) -> Any:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _sines(length: int, config: ModelConfig) -> NDArray[np.float32]:
    """Rows of :func:`pellucid.model.positions.sinusoidal_table`, padded; tests compare the two."""
    M = config.hidden_size
    table = np.zeros((length, -(-M // 64) * 64), np.float32)
    if config.sinusoidal_layout == "fairseq":
        step = np.float32(-(math.log(10000.0) / (M // 2 - 1)))
        frequency = np.exp(np.arange(M // 2, dtype=np.float32) * step)
        angle = np.arange(config.first_position, config.first_position + length, dtype=np.float32)[:, None] * frequency
        table[:, :M] = np.concatenate((np.sin(angle), np.cos(angle)), 1)
        return table
    position = np.arange(config.first_position, config.first_position + length, dtype=np.float64)[:, None]
    angles = position * np.exp(np.arange(0, M, 2, dtype=np.float64) * (-math.log(10000.0) / M))
    if config.sinusoidal_layout == "halves":
        table[:, :M] = np.concatenate((np.sin(angles), np.cos(angles)), 1)
    else:
        table[:, 0:M:2], table[:, 1:M:2] = np.sin(angles), np.cos(angles)
    return table


def _interruptible(function: Any, arguments: tuple[Any, ...], kept: tuple[Any, ...], stop: Any, long: bool) -> Any:
    """Call ``function`` so that Ctrl-C ends a long call: the engine looks at ``stop`` at every step.

    ``kept`` is what ``arguments`` point into; the thread holds it for as long as it runs. Not Thread.join: interrupted,
    it takes the thread to have ended (bpo-45274).
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
        raise interrupt
    return answer[0]


_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "model_new": (_POINTER, [_POINTER] * 3),
    "model_delete": (None, [_POINTER]),
    "batch_new": (_POINTER, [*[_POINTER] * 5, _INT64]),
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


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"pellucid_{name}")
        function.restype, function.argtypes = result, arguments
    return library
