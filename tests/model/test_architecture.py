"""The model computes what the papers say: every architecture against an independent implementation in float64 numpy.

The reference below handles one sentence without padding, has loops over heads, and shares no code with the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from model_cases import CONFIGS, SETTINGS, TABLE, VOCAB, assert_close, make_config, make_model, make_source

from pellucid.config import ModelConfig
from pellucid.model.transformer import EncoderDecoder

Array = np.ndarray


class Reference:
    """The forward pass of one sentence pair, written from the papers."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.config = model.config
        self.weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def logits(self, source: list[int], target: list[int]) -> Array:
        c = self.config
        memory = self.embed("encoder", source)
        for i in range(c.encoder_layers):
            at = f"encoder.layers.{i}"
            memory = self.sublayer(f"{at}.attention_sublayer", memory, self.attention(f"{at}.attention", None, False))
            memory = self.sublayer(f"{at}.feed_forward_sublayer", memory, self.feed_forward(f"{at}.feed_forward"))
        memory = self.norm("encoder.norm", memory) if c.norm_placement == "pre" else memory
        x = self.embed("decoder", target)
        for i in range(c.decoder_layers):
            at = f"decoder.layers.{i}"
            x = self.sublayer(f"{at}.attention_sublayer", x, self.attention(f"{at}.attention", None, True))
            cross = self.attention(f"{at}.cross_attention", memory, False)
            x = self.sublayer(f"{at}.cross_attention_sublayer", x, cross)
            x = self.sublayer(f"{at}.feed_forward_sublayer", x, self.feed_forward(f"{at}.feed_forward"))
        x = self.norm("decoder.norm", x) if c.norm_placement == "pre" else x
        x = x / math.sqrt(c.hidden_size) if c.scale_output else x
        return x @ self.weights["output.weight"].T + (self.weights["output.bias"] if c.output_bias else 0)

    def embed(self, side: str, tokens: list[int]) -> Array:
        c = self.config
        x = self.weights[f"{side}.embedder.embedding.weight"][tokens]
        x = x * math.sqrt(c.hidden_size) if c.scale_embeddings else x
        for position in range(len(tokens)):
            for m in range(c.hidden_size):
                if c.positions == "sinusoidal":
                    x[position, m] += self.sinusoid(position + c.first_position, m)
                elif c.positions == "learned":
                    x[position, m] += self.weights[f"{side}.embedder.positions.table"][position, m]
        return self.norm(f"{side}.embedder.norm", x) if c.embedding_norm else x

    def sinusoid(self, position: int, m: int) -> float:
        layout, size = self.config.sinusoidal_layout, self.config.hidden_size
        number, is_cosine = (m // 2, m % 2) if layout == "interleaved" else (m % (size // 2), m >= size // 2)
        exponent = number / (size // 2 - 1) if layout == "fairseq" else 2 * number / size
        angle = position / 10000**exponent
        return math.cos(angle) if is_cosine else math.sin(angle)

    def relative(self, side: str, query: int, key: int) -> Array:
        """What each head adds to the score of a pair of positions: T5, section 2.1 and its published code, in words.

        Half of the buckets hold one distance each; the others grow by a constant factor up to the greatest distance.
        """
        buckets, greatest = self.config.relative_buckets, self.config.relative_max_distance
        table = self.weights[f"{side}.embedder.positions.table"]
        distance, first = abs(key - query), 0
        if side == "encoder":
            buckets //= 2
            first = buckets if key > query else 0
        exact = buckets // 2
        if distance < exact:
            return table[first + distance]
        growth = (greatest / exact) ** (1 / (buckets - exact))
        bucket = exact
        while bucket < buckets - 1 and exact * growth ** (bucket + 1 - exact) <= distance * (1 + 1e-9):
            bucket += 1
        return table[first + bucket]

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if self.config.bias else y

    def norm(self, name: str, x: Array) -> Array:
        weight = self.weights[f"{name}.weight"]
        if self.config.norm == "rmsnorm":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + (self.config.norm_epsilon or 1e-6)) * weight
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + (self.config.norm_epsilon or 1e-5))
        return centred / deviation * weight + self.weights[f"{name}.bias"]

    def sublayer(self, name: str, x: Array, block: Callable[[Array], Array]) -> Array:
        if self.config.norm_placement == "pre":
            return x + block(self.norm(f"{name}.norm", x))
        return self.norm(f"{name}.norm", x + block(x))

    def feed_forward(self, name: str) -> Callable[[Array], Array]:
        def block(x: Array) -> Array:
            up = self.linear(f"{name}.up", x)
            function, gated = PAPERS[self.config.activation]
            inner = function(self.linear(f"{name}.gate", x)) * up if gated else function(up)
            return self.linear(f"{name}.down", inner)

        return block

    def attention(self, name: str, memory: Array | None, causal: bool) -> Callable[[Array], Array]:
        c = self.config
        kv_heads = c.self_kv_heads if memory is None else c.cross_kv_heads
        d, shared = c.head_size, c.num_heads // kv_heads

        def block(x: Array) -> Array:
            context = x if memory is None else memory
            query, key = self.linear(f"{name}.query", x), self.linear(f"{name}.key", context)
            value = self.linear(f"{name}.value", context)
            heads = []
            for h in range(c.num_heads):
                q, g = query[:, h * d : (h + 1) * d], h // shared
                k, v = key[:, g * d : (g + 1) * d], value[:, g * d : (g + 1) * d]
                if c.positions == "rotary" and memory is None:
                    q, k = rotated(q), rotated(k)
                out = np.zeros((len(x), d))
                for t in range(len(x)):
                    seen = t + 1 if causal else len(context)
                    scores = q[t] @ k[:seen].T / (math.sqrt(d) if c.scale_attention else 1)
                    if c.positions == "relative" and memory is None:
                        side = name.partition(".")[0]
                        scores = scores + [self.relative(side, t, s)[h] for s in range(seen)]
                    weights = np.exp(scores - scores.max())
                    out[t] = weights / weights.sum() @ v[:seen]
                heads.append(out)
            return self.linear(f"{name}.output", np.concatenate(heads, -1))

        return block


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    """Hendrycks & Gimpel 2016, section 2."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


PAPERS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "relu": (relu, False), "gelu": (gelu, False), "gelu_tanh": (gelu_tanh, False), "silu": (silu, False),
    "reglu": (relu, True), "geglu": (gelu, True), "geglu_tanh": (gelu_tanh, True), "swiglu": (silu, True),
}  # fmt: skip


def rotated(x: Array) -> Array:
    """Each pair (x_i, x_{i+D/2}) as a complex number, times e^(i · position · 10000^(−2i/D))."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * 10000.0 ** (-2 * np.arange(half) / x.shape[1])
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate((turned.real, turned.imag), -1)


@pytest.mark.parametrize("config", CONFIGS)
@torch.inference_mode()
def test_logits_are_those_of_an_independent_implementation(config: ModelConfig) -> None:
    target_vocab = VOCAB if config.one_vocabulary else VOCAB + 3
    model = make_model(config, VOCAB, target_vocab)
    lengths = (5, 17, 1)  # relative positions tell nothing apart from 10 on
    source, mask = make_source(*lengths)
    target = torch.randint(0, target_vocab, (3, 14))
    found = model(source, mask, target)
    reference = Reference(model)
    for row, length in enumerate(lengths):
        expected = reference.logits(source[row, :length].tolist(), target[row].tolist())
        assert_close(found[row].double(), torch.from_numpy(expected))


def test_the_table_of_architectures_has_every_pair_of_settings() -> None:
    for (first, firsts), (second, seconds) in itertools.combinations(SETTINGS.items(), 2):
        found = {(getattr(row, first), getattr(row, second)) for row in TABLE}
        assert found == set(itertools.product(firsts, seconds)), f"{first} with {second}"


@pytest.mark.parametrize(("tied", "matrices"), [("three", 1), ("two", 2), ("inputs", 2), ("none", 3)])
def test_tied_matrices_are_one_parameter(tied: str, matrices: int) -> None:
    model = make_model(make_config(tied_embeddings=tied))
    source, target = model.encoder.embedder.embedding.weight, model.decoder.embedder.embedding.weight
    assert len({id(source), id(target), id(model.output.weight)}) == matrices
    assert (target is model.output.weight) == (tied in ("three", "two"))
    assert (source is target) == (tied in ("three", "inputs"))
    assert len([name for name, p in model.named_parameters() if p.shape == (VOCAB, 16)]) == matrices


@pytest.mark.parametrize("tied", ["three", "two", "inputs", "none"])
def test_parameter_counts_by_part(tied: str) -> None:
    model = make_model(make_config(tied_embeddings=tied, positions="learned", output_bias=True))
    counts = model.parameter_counts()
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["embeddings"] == {"three": 1, "two": 2, "inputs": 2, "none": 3}[tied] * VOCAB * 16
    attention, feed_forward, norm = 4 * (16 * 16 + 16), 2 * 16 * 24 + 24 + 16, 2 * 16
    table = 64 * 16
    assert counts["encoder"] == attention + feed_forward + 3 * norm + table
    assert counts["decoder"] == 2 * (2 * attention + feed_forward + 3 * norm) + norm + table + VOCAB


@pytest.mark.parametrize(("heads", "cross"), [(4, 1), (1, 4), (2, 2)])
def test_fewer_key_value_heads_make_smaller_projections(heads: int, cross: int) -> None:
    model = make_model(make_config(num_kv_heads=heads, cross_num_kv_heads=cross))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for side in ("key", "value"):
        assert shapes[f"encoder.layers.0.attention.{side}.weight"] == (4 * heads, 16)
        assert shapes[f"decoder.layers.1.attention.{side}.weight"] == (4 * heads, 16)
        assert shapes[f"decoder.layers.1.cross_attention.{side}.weight"] == (4 * cross, 16)
    assert shapes["decoder.layers.1.cross_attention.query.weight"] == (16, 16)


def test_the_seed_decides_the_first_weights() -> None:
    first, again, other = (make_model(make_config(positions="learned"), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)


def test_first_weights_have_the_intended_scale() -> None:
    torch.manual_seed(1)
    model = EncoderDecoder(ModelConfig(hidden_size=256, positions="learned", tied_embeddings="none"), 1000, 1000)
    for name, parameter in model.named_parameters():
        spread = parameter.std().item()
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "norm" in name:
            assert (parameter == 1).all()
        elif "embedder" in name:
            assert spread == pytest.approx(1 / 16, rel=0.02)
        else:  # Glorot & Bengio 2010
            assert spread == pytest.approx(math.sqrt(2 / sum(parameter.shape)), rel=0.02)


def test_embeddings_and_sublayers_have_dropout_in_training_only() -> None:
    source, mask = make_source(5, 3)
    target = torch.randint(4, VOCAB, (2, 4))
    for rates in ({"dropout": 0.5}, {"ff_dropout": 0.5}, {"attention_dropout": 0.5}):
        model = make_model(make_config(**rates))
        assert torch.equal(model(source, mask, target), model(source, mask, target))
        model.train()
        assert not torch.equal(model(source, mask, target), model(source, mask, target))


@pytest.mark.parametrize(("norm", "narrow"), [("layernorm", True), ("rmsnorm", False)])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_under_autocast_training_keeps_the_residual_stream_narrow(norm: str, narrow: bool, placement: str) -> None:
    model = make_model(make_config(norm=norm, norm_placement=placement, dropout=0.1, tied_embeddings="none"))
    source, mask = make_source(5, 3)
    target = torch.randint(4, VOCAB, (2, 6))
    seen: list[torch.dtype] = []
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    for training in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model.train(training).decode(source, mask, target)
        used = torch.bfloat16 if training and narrow else torch.float32
        # A norm behind the residual sum writes float32 where PyTorch has it so.
        assert seen[0] == used
        assert not narrow or not training or (set(seen) == {used} and states.dtype == used)
        if training:
            states.float().square().sum().backward()
            assert all(
                parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in model.parameters()
            )
        seen.clear()


def test_a_backward_pass_reaches_every_parameter() -> None:
    for config in TABLE[::5]:
        model = make_model(config).train()
        source, mask = make_source(5, 3)
        model(source, mask, torch.randint(4, VOCAB, (2, 6))).square().sum().backward()
        unused = {"key.bias"}  # adds the same to all scores of a query: softmax takes it out again
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            if not any(name.endswith(ending) for ending in unused) and "table" not in name:
                assert parameter.grad.abs().max() > 0, name
