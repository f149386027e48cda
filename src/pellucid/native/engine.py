"""The native engine as Python sees it: a model of packed weights, a step function over it, whole searches.

Knows token numbers and arrays; knows nothing of text, nor PyTorch. Every call releases the interpreter's lock.
Shapes: B sentences, R rows (sentence-major), V vocabulary, M model size (padded).
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import Sentence, TokenRules
from pellucid.decoding.search import SearchStats
from pellucid.errors import LengthError, ModelFolderError, PellucidError
from pellucid.machine import free_memory
from pellucid.native.arguments import flat, tokens_within
from pellucid.native.build import load_library
from pellucid.native.calls import SHORT, STATUS, Handle, declared, interruptible, pointer
from pellucid.native.packing import PACK_VERSION, unsupported
from pellucid.native.step import NativeStep

__all__ = ["NativeModel", "searches_natively"]

ACTIVATIONS = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "reglu": 0, "geglu": 1, "geglu_tanh": 2, "swiglu": 3}
PENALTIES = {"average": 0, "power": 1, "gnmt": 2, "none": 3}
STOPS = {"exact": 0, "first_k": 1, "top": 2, "heuristic": 3}
OUTPUT_BIAS = -3
"""Its place among the tensors: behind it are the two tables of learned positions."""
PRECISIONS = ("float32", "int8")
MOST_BYTES = 4 << 30
"""Of keys and values in one search, of all workers together; less where less is free (:func:`_most_bytes`)."""
SURE_BYTES = 256 << 20
"""Taken without asking what is free."""


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

    Attributes:
        most_bytes: that the keys and values of any search so far have taken.

    Raises:
        NativeUnavailableError: the engine cannot run here.
        ModelFolderError: the file is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._library = declared(load_library())
        header, start, self._mapped = _map(path)
        self.config: ModelConfig = header["model"]
        self.source_vocab_size, self.target_vocab_size = header["sizes"]
        self.precision: str = header["precision"]
        self.weight_bytes = self._mapped.nbytes
        self.most_bytes = 0
        places, base = header["tensors"], self._mapped.ctypes.data + start
        self._pointers = (ctypes.c_void_p * len(places))(*(None if one is None else base + one[0] for one in places))
        self._lengths = (ctypes.c_int64 * len(places))(*(0 if one is None else one[1] for one in places))
        self._c_sizes = self._sizes(header["half_cache"], header["packed_tables"])
        self._handle = self._opened(self._pointers)
        tables = [self._table(places[side], start) for side in (-2, -1)]
        learned = all(table is not None for table in tables)
        if not self._handle.pointer or learned != (self.config.positions == "learned"):
            raise _damaged(path)
        self._tables = tables

    def _opened(self, pointers: Any, *kept: Any) -> Handle:
        count = len(pointers) - 2  # what is behind is read here
        return Handle(
            self._library, (self._c_sizes, self._reals(), pointers, self._lengths, count), self._mapped, *kept
        )

    @contextmanager
    def restricted(self, tokens: Sequence[int]) -> Iterator[None]:
        """Inside, every other token is impossible: a logit of -inf. For checks; in one thread."""
        tokens = tokens_within(tokens, self.target_vocab_size, "tokens that stay possible").tolist()
        bias = np.full(-(-self.target_vocab_size // 64) * 64, -np.inf, np.float32)
        kept = np.ctypeslib.as_array(
            ctypes.cast(ctypes.c_void_p(self._pointers[OUTPUT_BIAS]), ctypes.POINTER(ctypes.c_float)), bias.shape
        )
        bias[list(tokens)] = kept[list(tokens)]
        pointers = type(self._pointers)(*self._pointers)
        pointers[OUTPUT_BIAS] = bias.ctypes.data
        before = self._handle
        self._handle = self._opened(pointers, bias)
        try:
            yield
        finally:
            self._handle = before

    def _sizes(self, half_cache: bool, packed: Sequence[bool]) -> Any:
        config = self.config
        numbers = [
            self.precision == "int8",
            half_cache,
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
        numbers = self._mapped[first : first + place[1]].view(np.float32)
        return numbers.reshape(-1, width) if len(numbers) == (self.config.max_positions or 0) * width else None

    def content(self) -> memoryview:
        """Everything that decides about what it computes, as bytes."""
        return self._mapped.data

    @property
    def max_length(self) -> int | None:
        """Number of positions there are; None: no limit."""
        return self.config.max_positions if self.config.positions == "learned" else None

    def positions(self, side: int, length: int) -> NDArray[np.float32] | None:
        """Vectors [at least ``length``, M] that are added to embeddings: of the source (0) or the target (1).

        Raises:
            LengthError: there are fewer.
        """
        if self.max_length is not None and length > self.max_length:
            raise LengthError.beyond_positions(length, self.max_length)
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
            LengthError: a source or a limit is beyond the model's learned positions.
            PellucidError: the model gave NaN, or memory ran out; a source is empty, a token is none of the model's, or
                there are not as many sentences as sources.
        """
        if len(sentences) != len(sources):
            raise PellucidError(f"{len(sources)} sources and {len(sentences)} sentences: give one for each")
        size = self.target_vocab_size
        limits = np.array([sentence.limit for sentence in sentences], np.int64)
        if (limits < 1).any():
            raise PellucidError(
                f"sentence {int((limits < 1).argmax()) + 1} has no room for a token: its limit is below 1"
            )
        tokens, starts = self._sources(sources)
        prefixes, prefix_starts = flat([sentence.prefix for sentence in sentences], size, "prefix")
        listed = [t for t in range(size) if not rules.permits(t)] if rules.allowed is not None else rules.forbidden
        forbidden = tokens_within(sorted(set(listed)), size, "forbidden tokens")
        tokens_within([rules.bos_id, rules.eos_id], size, "the first and the last token")
        numbers = [settings.beam_size, settings.n_best, rules.eos_id, PENALTIES[settings.length_penalty]]
        numbers += [STOPS[settings.stop], settings.beam == "full", settings.min_length, settings.forced_score == "free"]
        numbers += [settings.force_end, rules.bos_id, max(1, workers), settings.batch_size]
        numbers.append(_most_bytes(settings.beam_size * self._bytes_for(len(tokens), int(limits.sum()))))
        stop, status = ctypes.c_int32(0), ctypes.c_int64(0)
        source_table = self.positions(0, max(map(len, sources), default=1))
        target_table = self.positions(1, int(limits.max(initial=1)))
        handle = self._handle
        arguments = (
            handle.pointer,
            pointer(source_table),
            pointer(target_table),
            pointer(tokens),
            pointer(starts),
            pointer(limits),
            pointer(prefixes),
            pointer(prefix_starts),
            len(sources),
            (ctypes.c_int64 * len(numbers))(*map(int, numbers)),
            settings.length_alpha,
            pointer(forbidden),
            len(forbidden),
            ctypes.byref(stop),
            ctypes.byref(status),
        )
        kept = (
            handle,
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
        drop = self._library.pellucid_results_delete
        results = ctypes.c_void_p(interruptible(self._library.pellucid_search, arguments, kept, stop, long, drop))
        try:
            if status.value:
                raise PellucidError(STATUS[status.value])
            return self._collected(results, len(sources), stats)
        finally:
            drop(results)

    def _sources(self, sources: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All their tokens, and where each begins."""
        tokens, starts = flat(sources, self.source_vocab_size, "source")
        if (empty := np.flatnonzero(np.diff(starts) == 0)).size:
            raise PellucidError(f"source {empty[0] + 1} is empty: it has at least its end token")
        return tokens, starts

    def _bytes_for(self, *positions: int) -> int:
        """At most taken by the keys and values of so many positions, each a source's or a target's of one beam."""
        keys = max(self.config.self_kv_heads, self.config.cross_kv_heads) * (self.config.head_size + 15)
        return sum(positions) * self.config.decoder_layers * 8 * keys

    def _collected(self, results: Any, count: int, stats: SearchStats) -> list[list[Hypothesis]]:
        sizes = (ctypes.c_int64 * 8)()
        self._library.pellucid_results_sizes(results, sizes)
        hypotheses, tokens, logprobs, steps, rows, sentence_steps, settled_steps, most_bytes = sizes
        self.most_bytes = max(self.most_bytes, most_bytes)
        counts, lengths, ended = (
            np.empty(count, np.int64),
            np.empty(hypotheses, np.int64),
            np.empty(hypotheses, np.int64),
        )
        scores, ids, logs = np.empty(hypotheses), np.empty(tokens, np.int32), np.empty(logprobs, np.float32)
        arrays = (counts, lengths, ended, scores, ids, logs)
        self._library.pellucid_results_copy(results, *[pointer(array) for array in arrays])
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
        """The step function of a batch, for at most ``longest`` steps.

        Raises:
            LengthError: a source is beyond the model's learned positions.
            PellucidError: a source is empty, a token is none of the model's, or memory ran out.
        """
        found = self._sources(sources)
        longest_source = int(np.diff(found[1]).max(initial=1))
        tables = self.positions(0, longest_source), self.positions(1, min(longest, self.max_length or longest))
        most = longest, self.max_length
        return NativeStep(self._library, self._handle, tables, found, self.target_vocab_size, most)


def _map(path: Path) -> tuple[dict[str, Any], int, NDArray[np.uint8]]:
    """What is written at the head of the file, where its tensors begin, and all of its bytes."""
    try:
        with path.open("rb") as file:
            mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        length = int.from_bytes(mapped[:8].tobytes(), "little")
        header = json.loads(mapped[8 : 8 + length].tobytes())
        header["model"] = ModelConfig.model_validate(header["model"])
        places = [place for place in header["tensors"] if place is not None]
        room = len(mapped) - 8 - length
        whole = (
            header["version"] == PACK_VERSION
            and length % 64 == 56
            and all(first >= 0 and first % 64 == 0 and size >= 0 and first + size <= room for first, size in places)
            and unsupported(header["model"]) is None
            and all(size > 0 for size in header["sizes"])
            and len(header["tensors"]) >= -OUTPUT_BIAS
            and (len(header["sizes"]), len(header["packed_tables"]), header["precision"] in PRECISIONS) == (2, 2, True)
            and isinstance(header["half_cache"], bool)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _damaged(path)
    return header, 8 + length, mapped


def _damaged(path: Path) -> ModelFolderError:
    return ModelFolderError(f"{path}: packed weights that are damaged or of another version: delete the file")


def _most_bytes(needed: int) -> int:
    """What the keys and values of a search may take that would never need more than ``needed``."""
    if needed <= SURE_BYTES:
        return MOST_BYTES
    free = free_memory()
    return MOST_BYTES if free is None else min(MOST_BYTES, max(SURE_BYTES, free // 2))


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
