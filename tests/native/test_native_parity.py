"""What the native engine computes is what the PyTorch model computes, architecture by architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from native_models import BOS, needs_engine, packed, random_model, random_sources, rectangle

from pellucid.decoding.model_step import CachedStep
from pellucid.errors import LengthError, ModelFolderError
from pellucid.model.positions import sinusoidal_table
from pellucid.model.transformer import EncoderDecoder
from pellucid.native.engine import NativeModel, _sines
from pellucid.native.packing import _largest_key, pack, unsupported

needs_engine()

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "pre-norm": {},
    "post-norm": {"norm_placement": "post"},
    "prime sizes": {"hidden_size": 38, "num_heads": 2, "ff_size": 53, "vocab": (61, 97), "tied_embeddings": "none"},
    "RMSNorm, gated": {"norm": "rmsnorm", "activation": "swiglu", "bias": False},
    "gated GELU": {"activation": "geglu_tanh"},
    "GELU": {"activation": "gelu"},
    "GELU by tanh, two ties": {"activation": "gelu_tanh", "tied_embeddings": "two", "vocab": (61, 83)},
    "SiLU, inputs tied": {"activation": "silu", "tied_embeddings": "inputs"},
    "grouped": {"num_kv_heads": 2, "cross_num_kv_heads": 1},
    "odd heads": {"head_dim": 9, "num_heads": 3},
    "wide heads": {"head_dim": 80, "num_heads": 2, "num_kv_heads": 1},
    "learned, BART": {"positions": "learned", "max_positions": 40, "embedding_norm": True, "norm_placement": "post"},
    "Marian": {"sinusoidal_layout": "halves", "output_bias": True, "norm_placement": "post"},
    "fairseq": {"sinusoidal_layout": "fairseq", "first_position": 2, "scale_embeddings": True},
    "no positions, scaled output": {"positions": "none", "scale_output": True, "scale_attention": False},
    "one layer": {"encoder_layers": 1, "decoder_layers": 1, "scale_embeddings": False},
}


def steps_of(model: EncoderDecoder, step: Any, count: int, rows: int) -> list[np.ndarray]:
    """log p after the same tokens, with beams that widen, cross and narrow, and a sentence that leaves."""
    rng = np.random.default_rng(3)
    tokens, found = np.full(rows, BOS), []
    for number in range(count):
        found.append(np.array(step(tokens).read()))
        if number == 1:
            step.reorder(np.arange(rows).repeat(3))
        if number == 2:
            step.select(np.arange(1, rows))
        if number == 3:
            sentence = np.arange(rows - 1)[:, None] * 3
            step.reorder((sentence + np.array([2, 0, 0])).ravel())
        if number == 5:
            step.reorder((np.arange(rows - 1)[:, None] * 3 + np.array([1, 2])).ravel())
        alive = {0: rows, 1: 3 * rows}.get(number, 3 * (rows - 1) if number < 5 else 2 * (rows - 1))
        tokens = rng.integers(3, 61, alive)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_step_is_the_models(name: str, tmp_path: Path) -> None:
    settings = dict(ARCHITECTURES[name])
    model = random_model(**settings)
    sources = random_sources(7, vocab=61)
    expected = steps_of(model, CachedStep(model, *rectangle(sources)), 20, len(sources))
    found = steps_of(model, packed(model, tmp_path).start(sources, 20), 20, len(sources))
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


@pytest.mark.parametrize("name", ["post-norm", "prime sizes", "RMSNorm, gated", "odd heads", "learned, BART", "Marian"])
def test_bytes_stay_near(name: str, tmp_path: Path) -> None:
    model = random_model(**ARCHITECTURES[name])
    sources = random_sources(7, vocab=61)
    expected = steps_of(model, CachedStep(model, *rectangle(sources)), 8, len(sources))
    found = steps_of(model, packed(model, tmp_path, "int8").start(sources, 8), 8, len(sources))
    for one, other in zip(expected, found, strict=True):
        assert 0 < np.abs(one - other).max() <= 0.05 * np.abs(one).max()
        assert np.abs(one - other).mean() <= 0.01 * np.abs(one).max()


def test_values_beyond_16_bits_stay_in_32(tmp_path: Path) -> None:
    model = random_model()
    sources = random_sources(7, vocab=61)
    expected = steps_of(model, CachedStep(model, *rectangle(sources)), 8, len(sources))
    assert packed(model, tmp_path, "int8")._c_sizes[1] == 1
    with torch.no_grad():  # the same function of its input
        for layer in model.decoder.layers:
            for attention in (layer.attention, layer.cross_attention):
                for parameter in attention.value.parameters():
                    parameter.mul_(1e6)
                attention.output.weight.div_(1e6)
    found = steps_of(model, packed(model, tmp_path, "int8").start(sources, 8), 8, len(sources))
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() <= 0.05 * np.abs(one).max()


@pytest.mark.parametrize("name", ["pre-norm", "post-norm", "RMSNorm, gated", "learned, BART", "fairseq", "odd heads"])
def test_no_key_is_larger_than_the_bound(name: str) -> None:
    model = random_model(**ARCHITECTURES[name])
    seen: list[float] = []
    for part, module in model.decoder.named_modules():
        if part.endswith((".key", ".value")):
            module.register_forward_hook(lambda _, __, output: seen.append(float(output.abs().max())))
    step = CachedStep(model, *rectangle(random_sources(30, vocab=61)))
    for number in range(8):
        step(np.full(30, 3 + number))
    bound = _largest_key({name: one.detach().numpy() for name, one in model.named_parameters()}, model.config)
    assert len(seen) > 8 and max(seen) <= bound <= 40 * max(seen)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_sentence_is_the_same_to_the_last_bit_whatever_is_beside_it(precision: Any, tmp_path: Path) -> None:
    model = random_model()
    engine = packed(model, tmp_path, precision)
    sources = random_sources(11)
    together = np.array(engine.start(sources, 5)(np.full(11, BOS)).read())
    for number, source in enumerate(sources):
        assert (np.array(engine.start([source], 5)(np.array([BOS])).read())[0] == together[number]).all()
    some = [sources[place] for place in (4, 1, 9)]
    assert (np.array(engine.start(some, 5)(np.full(3, BOS)).read()) == together[[4, 1, 9]]).all()


def test_probabilities_sum_to_1(tmp_path: Path) -> None:
    step = packed(random_model(vocab=(83, 200)[::-1][:2], tied_embeddings="none"), tmp_path).start([[5, 2]], 3)
    logprobs = np.array(step(np.array([BOS])).read(), np.float64)
    assert abs(np.exp(logprobs).sum() - 1) < 1e-6


def test_a_long_source_and_one_of_a_token(tmp_path: Path) -> None:
    model = random_model()
    sources = [random_sources(2, 4000)[1][:1], np.random.default_rng(1).integers(3, 83, 3001).tolist()]
    expected = CachedStep(model, *rectangle(sources))(np.full(2, BOS)).read()
    found = packed(model, tmp_path).start(sources, 2)(np.full(2, BOS)).read()
    assert np.abs(expected - found).max() <= 1e-5 * np.abs(expected).max()


def test_one_set_of_source_keys_whatever_the_beam(tmp_path: Path) -> None:
    engine = packed(random_model(), tmp_path)
    sizes = []
    for beams in (1, 2, 4, 8, 16):
        step = engine.start([[5, 6, 7, 2]] * 2, 9)
        step.reorder(np.arange(2).repeat(beams))
        for _ in range(4):
            step(np.full(2 * beams, 7))
        sizes.append(step.allocated_bytes()[0])
    assert len(set(sizes)) == 1 and sizes[0] > 0


@pytest.mark.parametrize("layout", ["interleaved", "halves", "fairseq"])
def test_sines_are_those_of_the_model(layout: Any) -> None:
    config = random_model(hidden_size=38, num_heads=2, sinusoidal_layout=layout, first_position=2).config
    expected = sinusoidal_table(2, 700, 38, layout).numpy()
    assert np.abs(_sines(700, config)[:, :38] - expected).max() < 1e-4


def test_what_it_cannot_run_is_named() -> None:
    assert unsupported(random_model(positions="rotary").config) == "positions: rotary"
    assert unsupported(random_model(positions="relative").config) == "positions: relative"
    assert unsupported(random_model(head_dim=200).config) == "heads of size 200 (the most is 128)"
    assert unsupported(random_model().config) is None


def test_broken_weights_and_files_are_refused(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.output.weight[3, 3] = float("nan")
    with pytest.raises(ModelFolderError, match="contain NaN or infinity"):
        packed(model, tmp_path)
    model = random_model()
    engine = packed(model, tmp_path)
    whole = (tmp_path / "float32.bin").read_bytes()
    del engine
    for content in (b"", b"x" * 100, whole[:-2000]):
        (tmp_path / "broken.bin").write_bytes(content)
        with pytest.raises(ModelFolderError, match="packed weights that are damaged"):
            NativeModel(tmp_path / "broken.bin")


def test_bytes_take_a_quarter(tmp_path: Path) -> None:
    model = random_model(hidden_size=64, ff_size=256, vocab=(2048, 2048))
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    pack(tmp_path / "packed", weights, model.config, (2048, 2048), "int8")
    assert (tmp_path / "packed").stat().st_size <= 0.3 * sum(weight.nbytes for weight in weights.values())


def test_learned_positions_end_with_the_same_words() -> None:
    model = random_model(positions="learned", max_positions=8)
    with pytest.raises(LengthError) as expected:
        model.encoder.embedder.positions.check(9)
    assert str(expected.value) == str(LengthError.beyond_positions(9, 8))
