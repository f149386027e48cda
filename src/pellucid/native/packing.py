"""Weights laid out as the native engine reads them, in one file that is mapped and never read as a whole.

Knows the names and shapes of an encoder-decoder's parameters; knows nothing of where they came from, nor PyTorch. The
order of the tensors is that in which ``source/model.h`` takes them.
Shapes: N outputs, K inputs (both padded to multiples of 64), M model size, H query heads, D head size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError

__all__ = ["PACK_VERSION", "Precision", "expected_shapes", "pack", "unsupported"]

Precision = Literal["float32", "int8"]
Array = NDArray[Any]
PACK_VERSION = 2
PANEL = 64
LARGEST_HEAD = 128
LARGEST_HALF = 32_000
"""Keys and values that may be larger stay in 32 bits: 16 bits hold up to 65,504, and rounding to int8 moves them."""


def unsupported(config: ModelConfig) -> str | None:
    """Why the engine cannot run a model of this architecture; None: it can."""
    if config.positions in ("rotary", "relative"):
        return f"positions: {config.positions}"
    if config.head_size > LARGEST_HEAD:
        return f"heads of size {config.head_size} (the most is {LARGEST_HEAD})"
    return None


def expected_shapes(config: ModelConfig, sizes: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """The parameters of an ``EncoderDecoder`` and their shapes, tied ones once."""
    M, H, D, F = config.hidden_size, config.num_heads, config.head_size, config.ff_size
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool = config.bias) -> None:
        shapes[f"{name}.weight"] = outputs, inputs
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        for part in ("weight", "bias") if config.norm == "layernorm" else ("weight",):
            shapes[f"{name}.{part}"] = (M,)

    def attention(name: str, keys: int) -> None:
        for part, outputs in (("query", H), ("key", keys), ("value", keys)):
            linear(f"{name}.{part}", outputs * D, M)
        linear(f"{name}.output", M, H * D)
        norm(f"{name}_sublayer.norm")

    tied = config.tied_embeddings
    for side, size, layers in (
        ("encoder", sizes[0], config.encoder_layers),
        ("decoder", sizes[1], config.decoder_layers),
    ):
        if side == "encoder" or tied not in ("three", "inputs"):
            shapes[f"{side}.embedder.embedding.weight"] = size, M
        if config.positions == "learned":
            shapes[f"{side}.embedder.positions.table"] = config.max_positions, M
        if config.embedding_norm:
            norm(f"{side}.embedder.norm")
        if config.norm_placement == "pre":
            norm(f"{side}.norm")
        for number in range(layers):
            layer = f"{side}.layers.{number}"
            attention(f"{layer}.attention", config.self_kv_heads)
            if side == "decoder":
                attention(f"{layer}.cross_attention", config.cross_kv_heads)
            for part in ("up", "gate") if config.gated else ("up",):
                linear(f"{layer}.feed_forward.{part}", F, M)
            linear(f"{layer}.feed_forward.down", M, F)
            norm(f"{layer}.feed_forward_sublayer.norm")
    if tied not in ("three", "two"):
        shapes["output.weight"] = sizes[1], M
    if config.output_bias:
        shapes["output.bias"] = (sizes[1],)
    return shapes


def pack(
    path: Path, weights: Mapping[str, Array], config: ModelConfig, sizes: tuple[int, int], precision: Precision
) -> None:
    """Write a model's weights.

    Args:
        path: the file to write.
        weights: the parameters by their names in an ``EncoderDecoder``, tied ones once.
        config: the architecture; :func:`unsupported` is None for it.
        sizes: of the vocabularies, source and target.
        precision: of the products: ``int8`` rounds each output's weights to 8 bits with a scale.

    Raises:
        ModelFolderError: a weight is not a number, or infinite.
    """
    assert {name: weight.shape for name, weight in weights.items()} == expected_shapes(config, sizes)
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise ModelFolderError(f"the weights {name} contain NaN or infinity; check the checkpoint")
    packer = _Packer(weights, config, precision)
    index: list[list[int] | None] = []
    body = path.with_name(f"{path.name}.body")
    end = 0
    places: dict[int, list[int]] = {}
    with body.open("wb") as file:
        for tensor in packer.tensors():
            if tensor is None or id(tensor) in places:
                index.append(None if tensor is None else places[id(tensor)])
                continue
            data = np.ascontiguousarray(tensor)
            index.append([end, data.nbytes])
            if packer.is_kept(tensor):
                places[id(tensor)] = [end, data.nbytes]
            file.write(data.data)
            file.write(bytes(-data.nbytes % PANEL))
            end += data.nbytes + -data.nbytes % PANEL
    header = {
        "version": PACK_VERSION,
        "precision": precision,
        "model": config.model_dump(mode="json"),
        "sizes": sizes,
        "packed_tables": packer.packed_tables,
        "half_cache": precision == "int8" and _largest_key(weights, config) <= LARGEST_HALF,
        "tensors": index,
    }
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % PANEL)
    with path.open("wb") as file, body.open("rb") as rest:
        file.write(len(head).to_bytes(8, "little") + head)
        while block := rest.read(1 << 22):
            file.write(block)
    body.unlink()


def _largest_key(weights: Mapping[str, Array], config: ModelConfig) -> float:
    """A bound of what the decoder's keys and values can be, whatever the text: |w · x + b| ≤ |w| |x| + |b|.

    All but the first layer of a post-norm decoder without a norm of embeddings project what a norm has just given:
    its |x| is at most the largest gain times √M, and the length of the shift.
    """
    M = config.hidden_size

    def norm(name: str) -> float:
        shift = weights.get(f"{name}.bias")
        gain = float(np.abs(weights[f"{name}.weight"]).max()) * math.sqrt(M)
        return gain + (0.0 if shift is None else float(np.linalg.norm(shift.astype(np.float64))))

    def projected(attention: str, length: float) -> float:
        largest = 0.0
        for part in ("key", "value"):
            rows = np.linalg.norm(weights[f"{attention}.{part}.weight"].astype(np.float64), axis=1)
            bias = np.abs(weights.get(f"{attention}.{part}.bias", np.zeros(1)))
            largest = max(largest, float((rows * length + bias).max()))
        return largest

    pre = config.norm_placement == "pre"
    last = f"encoder.layers.{config.encoder_layers - 1}.feed_forward_sublayer.norm"
    read = norm("encoder.norm" if pre else last)
    largest = 0.0
    for number in range(config.decoder_layers):
        layer = f"decoder.layers.{number}"
        if pre:
            length = norm(f"{layer}.attention_sublayer.norm")
        elif number:
            length = norm(f"decoder.layers.{number - 1}.feed_forward_sublayer.norm")
        else:
            length = norm("decoder.embedder.norm") if config.embedding_norm else _longest_embedding(weights, config)
        largest = max(largest, projected(f"{layer}.attention", length), projected(f"{layer}.cross_attention", read))
    return largest


def _longest_embedding(weights: Mapping[str, Array], config: ModelConfig) -> float:
    """A bound of the length of a token's vector and its position's, of any side."""
    longest = {"embedding": 0.0, "positions": math.sqrt(config.hidden_size)}  # a sine is at most 1
    for name, weight in weights.items():
        if name == "output.weight" or name.endswith((".embedding.weight", ".positions.table")):
            part = "positions" if name.endswith("table") else "embedding"
            longest[part] = max(longest[part], float(np.linalg.norm(weight.astype(np.float64), axis=1).max()))
    scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
    return longest["embedding"] * scale + longest["positions"]


class _Packer:
    """The tensors of a model in the engine's order; None where the engine gets a null pointer."""

    def __init__(self, weights: Mapping[str, Array], config: ModelConfig, precision: Precision) -> None:
        self._weights, self._config, self._bytes = weights, config, precision == "int8"
        self._head, self._padded_head = config.head_size, _up(config.head_size, 16)
        tied = config.tied_embeddings
        # With bytes, a table that is the output matrix is read out of its panels.
        self.packed_tables = [self._bytes and tied == "three", self._bytes and tied in ("three", "two")]

    def tensors(self) -> Iterator[Array | None]:
        config = self._config
        yield from self._stack("encoder")
        for number in range(config.encoder_layers):
            layer = f"encoder.layers.{number}"
            yield from self._attention(f"{layer}.attention", f"{layer}.attention_sublayer.norm")
            yield from self._feed_forward(layer)
        yield from self._stack("decoder")
        for number in range(config.decoder_layers):
            layer = f"decoder.layers.{number}"
            yield from self._attention(f"{layer}.attention", f"{layer}.attention_sublayer.norm")
            cross = f"{layer}.cross_attention"
            yield from self._linear(*self._heads(f"{cross}.query"))
            yield from self._linear(*self._joined(f"{cross}.key", f"{cross}.value"))
            yield from self._linear(*self._from_heads(f"{cross}.output"))
            yield from self._norm(f"{layer}.cross_attention_sublayer.norm")
            yield from self._feed_forward(layer)
        yield from self._output()
        for side in ("encoder", "decoder"):  # behind what the engine reads: learned positions
            name = f"{side}.embedder.positions.table"
            yield self._columns(self._weights[name]) if config.positions == "learned" else None

    def _stack(self, side: str) -> Iterator[Array | None]:
        is_source = side == "encoder"
        name = f"{side}.embedder.embedding.weight"
        table = self._weights[name] if name in self._weights else self._embedding()
        if self.packed_tables[0 if is_source else 1]:
            yield from self._output_bytes[:2]
        elif self._bytes:
            rounded, scale = _round(self._columns(table))
            yield from (rounded, scale)
        else:
            yield from (self._columns(table), None)
        if self._config.embedding_norm:
            yield from self._norm(f"{side}.embedder.norm")
        if self._config.norm_placement == "pre":
            yield from self._norm(f"{side}.norm")

    def _embedding(self) -> Array:
        """The one matrix of both vocabularies, under whichever name it is there."""
        names = ("encoder.embedder.embedding.weight", "decoder.embedder.embedding.weight", "output.weight")
        return next(self._weights[name] for name in names if name in self._weights)

    def _output_weight(self) -> Array:
        if "output.weight" in self._weights:
            return self._weights["output.weight"]
        name = "decoder.embedder.embedding.weight"
        return self._weights[name] if name in self._weights else self._embedding()

    @cached_property
    def _output_bytes(self) -> tuple[Array, Array, Array]:
        """What :meth:`_linear` gives for the output matrix; also read as a table, and written once."""
        return _rounded(_padded(self._output_weight(), PANEL))

    def is_kept(self, tensor: Array) -> bool:
        """Whether the very same array may come again."""
        return self._bytes and any(tensor is one for one in self._output_bytes)

    def _output(self) -> Iterator[Array | None]:
        bias = self._weights.get("output.bias")
        weight = self._output_weight()
        full = np.full(_up(len(weight), PANEL), -np.inf, np.float32)  # what is behind the vocabulary is never chosen
        full[: len(weight)] = 0.0 if bias is None else bias
        if self._bytes:
            yield from (*self._output_bytes, full)
        else:
            yield from self._linear(weight, full)

    def _attention(self, name: str, norm: str) -> Iterator[Array | None]:
        yield from self._linear(*self._joined(f"{name}.query", f"{name}.key", f"{name}.value"))
        yield from self._linear(*self._from_heads(f"{name}.output"))
        yield from self._norm(norm)

    def _feed_forward(self, layer: str) -> Iterator[Array | None]:
        for part in ("up", "gate", "down") if self._config.gated else ("up", "down"):
            yield from self._linear(*self._read(f"{layer}.feed_forward.{part}"))
        yield from self._norm(f"{layer}.feed_forward_sublayer.norm")

    def _read(self, name: str) -> tuple[Array, Array]:
        weight = self._weights[f"{name}.weight"]
        bias = self._weights.get(f"{name}.bias")
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias

    def _heads(self, name: str) -> tuple[Array, Array]:
        """A projection to heads, each padded to a multiple of 16."""
        weight, bias = self._read(name)
        more = self._padded_head - self._head
        if not more:
            return weight, bias
        by_head = np.pad(weight.reshape(-1, self._head, weight.shape[1]), ((0, 0), (0, more), (0, 0)))
        return by_head.reshape(-1, weight.shape[1]), np.pad(bias.reshape(-1, self._head), ((0, 0), (0, more))).ravel()

    def _joined(self, *names: str) -> tuple[Array, Array]:
        parts = [self._heads(name) for name in names]
        return np.concatenate([weight for weight, _ in parts]), np.concatenate([bias for _, bias in parts])

    def _from_heads(self, name: str) -> tuple[Array, Array]:
        """The projection that joins the heads."""
        weight, bias = self._read(name)
        more = self._padded_head - self._head
        by_head = np.pad(weight.reshape(len(weight), -1, self._head), ((0, 0), (0, 0), (0, more)))
        return by_head.reshape(len(weight), -1), bias

    def _linear(self, weight: Array, bias: Array) -> Iterator[Array | None]:
        """Weights in panels, scales, their sums, bias."""
        padded = _padded(weight, PANEL)
        outputs = len(padded)
        full_bias = np.pad(bias.astype(np.float32), (0, outputs - len(bias)))
        if not self._bytes:
            panels = padded.reshape(outputs // PANEL, PANEL, -1).transpose(0, 2, 1)
            yield from (panels, None, None, full_bias)
            return
        yield from (*_rounded(padded), full_bias)

    def _norm(self, name: str) -> Iterator[Array | None]:
        for part in ("weight", "bias"):
            vector = self._weights.get(f"{name}.{part}")
            yield None if vector is None else _padded(vector[None], PANEL, rows=1)[0]

    def _columns(self, table: Array) -> Array:
        return _padded(table, PANEL, rows=1)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _padded(matrix: Array, columns: int, rows: int = PANEL) -> Array:
    """With zeros up to multiples of ``rows`` and ``columns``."""
    more = _up(matrix.shape[0], rows) - matrix.shape[0], _up(matrix.shape[1], columns) - matrix.shape[1]
    return np.pad(matrix, ((0, more[0]), (0, more[1]))).astype(np.float32, copy=False)


def _round(matrix: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Bytes and a scale for each row: matrix ≈ bytes · scale."""
    scale = (np.abs(matrix).max(1) / 127).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1)[:, None]
    return np.rint(matrix / divisor).astype(np.int8), scale


def _rounded(padded: Array) -> tuple[Array, Array, Array]:
    """A padded matrix as panels of bytes [N/64][K/4][64][4], the outputs' scales, and scale · Σ bytes."""
    rounded, scale = _round(padded)
    panels = rounded.reshape(len(rounded) // PANEL, PANEL, -1, 4).transpose(0, 2, 1, 3)
    return panels, scale, (scale * rounded.astype(np.int64).sum(1)).astype(np.float32)
