"""What a trace says is what the engine does: each claim of the page that needs no browser, against a run of its own."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from random_models import SCHEMES, TEXT, make_translator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import pellucid.model.transformer
from pellucid.data.units import unit_spans
from pellucid.trace import AttentionEvent, EmbeddingEvent, Observer
from pellucid.tracer.counting import cached_macs, uncached_macs
from pellucid.tracing.document import Candidate, Writing
from pellucid.tracing.json_form import encode
from pellucid.tracing.trace import Trace
from pellucid.translator import Translator


@pytest.fixture(scope="module", params=SCHEMES)
def translator(request: pytest.FixtureRequest) -> Translator:
    return make_translator(positions=request.param)


@pytest.fixture(scope="module")
def trace(translator: Translator) -> Trace:
    return translator.trace(TEXT, beam_size=3)


def first(trace: Trace) -> Writing:
    writing = trace.writings[0]
    assert writing is not None
    return writing


class Keeper(Observer):
    """An observer of the tests' own."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], AttentionEvent] = {}
        self.inputs: dict[str, EmbeddingEvent] = {}

    def attention(self, event: AttentionEvent) -> None:
        self.seen[event.use, event.layer] = event

    def embedding(self, event: EmbeddingEvent) -> None:
        self.inputs[event.use] = event


def run_again(translator: Translator, trace: Trace) -> tuple[Keeper, Tensor]:
    """One teacher-forced pass over the first writing, apart from the tracer; the decoder reads the fused path's."""
    keeper, model = Keeper(), translator.model
    source = torch.tensor([[token.id for token in trace.src]])
    target = torch.tensor([first(trace).tf.input_ids])
    with torch.inference_mode():
        model.encode(source, source != 0, keeper)
        cross = model.decoder.source_keys_values(model.encode(source, source != 0))
        return keeper, model.output(model.decoder(target, cross, (source != 0)[:, None, None], None, keeper))[0]


def mask_problems(trace: Trace) -> list[str]:
    """What check 2 of the page complains of."""
    writing = first(trace)
    allowed = np.tril(np.ones((writing.len, writing.len), bool))
    found = [] if np.array_equal(writing.decoder.mask.values, allowed) else ["the mask is not causal"]
    for layer, weights in enumerate(writing.decoder.attn):
        if (weights.values[:, ~allowed] != 0).any():
            found.append(f"layer {layer}: a masked cell is not 0")
    return found


def test_masked_cells_are_exactly_zero(trace: Trace) -> None:
    assert mask_problems(trace) == []
    assert all((layer.values[:, 0, 1:] != 0).all() for layer in first(trace).decoder.unmasked.attn)


def test_an_engine_without_a_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(new: int, past: int, device: torch.device | None = None) -> Tensor:
        return torch.ones(1, 1, new, past + new, dtype=torch.bool)

    monkeypatch.setattr(pellucid.model.transformer, "causal_mask", everything)
    assert len(mask_problems(make_translator().trace(TEXT))) == 3  # the mask itself, and both layers


def test_rows_sum_to_one_and_padding_gets_nothing(translator: Translator) -> None:
    padded = translator.trace(TEXT, padding=2)
    writing = first(padded)
    for array in (*padded.encoder.attn, *writing.decoder.attn, *writing.cross.attn, *writing.decoder.unmasked.attn):
        assert np.abs(array.values.sum(-1) - 1).max() < 1e-5
    assert padded.encoder.pad_mask == [True] * 6 + [False] * 2
    for array in (*padded.encoder.attn, *writing.cross.attn):
        assert (array.values[..., 6:] == 0).all()
    assert (padded.encoder.attn[0].values[:, 0, 1:6] > 0).all()  # the encoder sees what stands behind
    plain = translator.trace(TEXT)
    assert [one.ids for one in padded.search.nbest] == [one.ids for one in plain.search.nbest]


def test_what_is_shown_is_what_the_engine_had_bit_by_bit(translator: Translator, trace: Trace) -> None:
    keeper, _ = run_again(translator, trace)
    writing = first(trace)
    for use, part in (("encoder", trace.encoder), ("decoder", writing.decoder), ("cross", writing.cross)):
        for layer in range(2):
            event = keeper.seen[use, layer]
            shown = {"attn": event.weights, "scores": event.scores, "q": event.query, "k": event.key, "v": event.value}
            for name, tensor in shown.items():
                assert np.array_equal(getattr(part, name)[layer].values, tensor[0].numpy()), (use, layer, name)
    assert np.array_equal(trace.position.input.values, keeper.inputs["encoder"].summed[0].numpy())


def test_a_cell_is_its_dot_product_and_weights_are_the_softmax(trace: Trace) -> None:
    writing = first(trace)
    causal = np.where(writing.decoder.mask.values, 0.0, -np.inf)
    sides = [
        (trace.encoder, trace.position.bias, trace.gqa.q_to_kv.encoder, 0.0),
        (writing.decoder, writing.decoder.bias, trace.gqa.q_to_kv.self, causal),
        (writing.cross, None, trace.gqa.q_to_kv.cross, 0.0),
    ]
    for part, bias, wiring, mask in sides:
        for layer in range(2):
            query, key = part.q[layer].values, part.k[layer].values
            for head in range(4):
                scores = query[head] @ key[wiring[head]].T / part.divisor
                if bias is not None:
                    scores = scores + bias.values[head]
                assert np.abs(scores - part.scores[layer].values[head]).max() < 1e-4
                raised = np.exp(scores + mask - (scores + mask).max(-1, keepdims=True))
                weights = raised / raised.sum(-1, keepdims=True)
                assert np.abs(weights - part.attn[layer].values[head]).max() < 1e-5


# -- positions


def test_the_input_is_the_scaled_embedding_with_positions(translator: Translator, trace: Trace) -> None:
    position = trace.position
    scaled = position.tok_emb.values * position.scale
    expected = scaled if position.pe is None else scaled + position.pe.values
    assert np.abs(position.input.values - expected).max() < 1e-6
    assert position.scheme == translator.model.config.positions
    assert position.added == (position.pe is not None) == (position.scheme in ("sinusoidal", "learned"))
    assert (position.rotary is not None) == (position.scheme == "rotary")
    assert (position.bias is not None) == (position.scheme == "relative")
    rows = translator.model.encoder.embedder.embedding.weight.detach().numpy()
    assert np.array_equal(position.tok_emb.values, rows[[token.id for token in trace.src]])


def test_sinusoidal_positions_are_their_formula_and_learned_ones_the_checkpoints() -> None:
    position = make_translator(positions="sinusoidal").trace(TEXT).position
    assert position.pe is not None and position.formula is not None
    for place, column in ((0, 0), (3, 4), (5, 31)):
        angle = place / 10000 ** (2 * (column // 2) / 32)
        assert position.pe.values[place, column] == pytest.approx((math.sin, math.cos)[column % 2](angle), abs=1e-6)
    assert position.beyond.length == 513 and position.beyond.error is None
    translator = make_translator(positions="learned")
    position = translator.trace(TEXT).position
    table = dict(translator.model.named_parameters())["encoder.embedder.positions.table"].detach().numpy()
    assert position.pe is not None and np.array_equal(position.pe.values, table[:6])
    assert position.formula is not None and not np.allclose(position.formula.values, position.pe.values)
    assert position.max_length == 40 and position.beyond.length == 41
    assert "41 tokens does not fit the 40 learned positions" in str(position.beyond.error)


def test_without_positions_order_is_lost_and_with_them_it_is_not(trace: Trace) -> None:
    ablation = trace.position.ablation
    assert ablation is not None and ablation.perm == [4, 3, 2, 1, 0, 5]
    assert ablation.off.enc_maxdiff < 1e-5 and ablation.off.logit_maxdiff < 1e-5
    assert ablation.off.texts[0] == ablation.off.texts[1]
    has_order = trace.position.scheme != "none"
    assert (ablation.on.enc_maxdiff > 1e-2) == has_order and (ablation.on.logit_maxdiff > 1e-3) == has_order


# -- in parallel and serial


def test_teacher_forcing_equals_token_by_token(translator: Translator, trace: Trace) -> None:
    for writing in trace.writings:
        assert writing is not None
        assert writing.tf.calls == 1 and writing.ar.calls == writing.len
        assert writing.maxdiff.argmax_equal and writing.maxdiff.relative <= 1e-5
        assert writing.tf.gold_ids == writing.ar.ids == [token.id for token in writing.tgt]
        assert writing.sum_logp == pytest.approx(sum(writing.logp)) and writing.penalty == writing.len
    _, logits = run_again(translator, trace)
    logp = logits.log_softmax(-1)[range(first(trace).len), first(trace).tf.gold_ids].tolist()
    assert first(trace).tf.logp == pytest.approx(logp, abs=1e-5)
    assert first(trace).topk[0][0].logp == pytest.approx(float(logits.log_softmax(-1)[0].max()), abs=1e-5)


def test_greedy_search_is_the_most_probable_token_at_every_step(translator: Translator) -> None:
    trace = translator.trace(TEXT, beam_size=1)
    writing = first(trace)
    assert trace.search.greedy.writing == 0 and trace.search.greedy.ids == trace.search.nbest[0].ids
    kept = [node for node in trace.search.nodes if node.status != "pruned"]
    assert [node.token.id for node in kept] == trace.search.greedy.ids == [*writing.tf.gold_ids]
    assert trace.search.greedy.nodes == [node.id for node in kept]
    for place, row in enumerate(writing.topk):
        forbidden = (0, 2, 3) if place < translator.decoding.min_length else (0, 2)
        assert next(c.token.id for c in row if c.token.id not in forbidden) == writing.ar.ids[place]


def other_than(writing: Writing, row: int) -> Candidate:
    """A likely token that was not written there, and that may be."""
    taken = (0, 2, 3, writing.tgt[row].id)
    return next(candidate for candidate in writing.topk[row] if candidate.token.id not in taken)


def test_a_wrong_token_changes_only_what_comes_after_it(translator: Translator) -> None:
    plain = first(translator.trace(TEXT))
    token = other_than(plain, 2).token.id
    drift = first(translator.trace(TEXT, corrupt={"at": 2, "token": token})).drift
    assert drift is not None and (drift.at, drift.replaced.id) == (2, token)
    assert drift.logp[:2] == pytest.approx(drift.clean_logp[:2], abs=1e-6)
    assert drift.logp[3:] != pytest.approx(drift.clean_logp[3:], abs=1e-4)
    assert drift.written[0].id == token


def test_covering_a_word_is_hiding_it(translator: Translator, trace: Trace) -> None:
    covers = first(trace).cover
    assert covers is not None and [one.unit for one in covers] == [0, 1, 2, 3, 4]
    assert [unit.text for unit in trace.source_units] == [TEXT[a:b] for a, b in unit_spans(TEXT)]
    source = torch.tensor([[token.id for token in trace.src]])
    mask = torch.tensor([[True, True, False, True, True, True]])
    with torch.inference_mode():
        logits = translator.model(source, mask, torch.tensor([first(trace).tf.input_ids]))[0]
    expected = logits.log_softmax(-1)[range(first(trace).len), first(trace).tf.gold_ids].tolist()
    assert covers[2].tokens == [2] and covers[2].logp == pytest.approx(expected, abs=1e-5)


# -- the cache


def test_bytes_are_those_of_the_tensors_and_of_the_formula(translator: Translator, trace: Trace) -> None:
    kv = first(trace).kv
    assert kv.same_ids is True and kv.logp_maxdiff is not None and kv.logp_maxdiff < 1e-5
    for t, step in enumerate(kv.steps):
        assert step.bytes.self == step.formula.self == 2 * 2 * 2 * 8 * (t + 1) * 4
        assert step.bytes.cross == step.formula.cross == 2 * 2 * 2 * 8 * 6 * 4
        assert (step.new_rows, step.reused_rows, step.self_len, step.cross_len) == (1, t, t + 1, 6)
    with torch.inference_mode():
        source = torch.tensor([[token.id for token in trace.src]])
        cache = translator.model.start_cache(translator.model.encode(source, source != 0), source != 0)
        for token in first(trace).tf.input_ids:
            translator.model.step(torch.tensor([token]), cache)
    held = [tensor for pair in cache._self if pair for tensor in pair]
    assert kv.steps[-1].bytes.allocated_self == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert kv.self_shape == list(held[0].shape)
    assert {step.bytes.cross for step in trace.search.steps} == {kv.steps[0].bytes.cross}  # flat in the beam


@pytest.mark.parametrize("settings", [{}, {"activation": "swiglu", "cross_num_kv_heads": 4, "head_dim": 6}])
@torch.inference_mode()
def test_multiply_adds_are_what_pytorch_counts(settings: dict[str, Any]) -> None:
    model = make_translator(**settings).model
    source, keeper = torch.tensor([[4, 5, 6, 7, 3]]), Keeper()
    cache = model.start_cache(model.encode(source, source != 0), source != 0)
    memory, prefix = model.encode(source, source != 0), torch.full((1, 4), 5)
    for position in range(4):
        with FlopCounterMode(display=False) as counter:
            model.step(torch.tensor([5]), cache, keeper)
        assert counter.get_total_flops() == 2 * cached_macs(model.config, model.target_vocab_size, position, 5)
        with FlopCounterMode(display=False) as counter:
            # Looked at, because PyTorch does not count the fused attention of CPUs.
            cross = model.decoder.source_keys_values(memory)
            states = model.decoder(prefix[:, : position + 1], cross, (source != 0)[:, None, None], None, keeper)
            model.output(states[:, -1])
        assert counter.get_total_flops() == 2 * uncached_macs(model.config, model.target_vocab_size, position, 5)


def test_query_heads_read_the_key_value_head_that_the_wiring_names(trace: Trace) -> None:
    assert trace.gqa.kind == "grouped" and trace.gqa.q_to_kv.self == [0, 0, 1, 1]
    assert trace.gqa.bytes_mha.self == 2 * trace.gqa.bytes_actual.self
    assert [one.kv_heads for one in trace.gqa.what_if] == [1, 2, 4]
    changed = make_translator(positions=trace.position.scheme)
    with torch.no_grad():  # the keys of key/value head 1 of the first decoder layer
        changed.model.decoder.layers[0].attention.key.weight[8:].add_(0.5)  # type: ignore[union-attr, operator]
    keeper, _ = run_again(changed, trace)
    before, after = first(trace).decoder.attn[0].values, keeper.seen["decoder", 0].weights[0].numpy()
    differs = [not np.array_equal(before[head], after[head]) for head in range(4)]
    assert differs == [kv_head == 1 for kv_head in trace.gqa.q_to_kv.self]


# -- the search


def test_the_lattice_is_the_search(translator: Translator, trace: Trace) -> None:
    search = trace.search
    found = translator.generate([TEXT], beam_size=3, n_best=3)[0].hypotheses
    assert [one.text for one in search.nbest] == [one.text for one in found]
    assert [one.ids for one in search.nbest] == [one.token_ids for one in found]
    assert [one.score for one in search.nbest] == pytest.approx([one.score for one in found], abs=1e-6)
    nodes = search.nodes
    assert [node.id for node in nodes] == list(range(len(nodes)))
    for node in nodes:
        parent = None if node.parent is None else nodes[node.parent]
        assert (node.step == 0) == (parent is None)
        if parent is not None:
            assert parent.status == "kept" and parent.step == node.step - 1
            assert node.sum_logp == pytest.approx(parent.sum_logp + node.logp)
        assert node.score == pytest.approx(node.sum_logp / (node.step + 1))
        if node.status == "pruned":
            assert node.why is not None and node.why.needed is not None
            assert node.sum_logp <= node.why.needed + 1e-5
    for one in search.nbest:
        assert one.node is not None
        end = nodes[one.node]
        assert end.status == ("finished" if one.finish_reason == "eos" else "cut")
        assert end.sum_logp == pytest.approx(one.sum_logp, abs=1e-6)
        path, place = [], one.node
        while place is not None:
            path.append(nodes[place].token.id)
            place = nodes[place].parent  # type: ignore[assignment]
        assert path[::-1] == one.ids
    for step, rows in enumerate(search.reorder):
        kept = [node for node in nodes if node.step == step - 1 and node.status == "kept"]
        assert (rows is None) == (step == 0) and (rows is None or len(rows) == len(kept) == search.steps[step].rows)


def test_a_forced_token_is_respected_and_undo_gives_the_same_trace(translator: Translator, trace: Trace) -> None:
    other = other_than(first(trace), 1)
    prefix = [first(trace).tgt[0].id, other.token.id]
    forced = translator.trace(TEXT, beam_size=3, prefix_ids=prefix)
    assert all(one.ids[:2] == prefix for one in forced.search.nbest)
    writing = first(forced)
    assert writing.forced == [True, True] + [False] * (writing.len - 2)
    assert writing.logp[1] == pytest.approx(other.logp, abs=1e-5)
    target = " ".join(token.text for token in writing.tgt if token.id != 3)
    score = translator.score([TEXT], [target])[0].token_logprobs
    assert writing.logp == pytest.approx(score[: writing.len], abs=1e-5)
    assert forced.id != trace.id
    assert timeless(translator.trace(TEXT, beam_size=3)) == timeless(trace)


def timeless(trace: Trace) -> Any:
    """The document without its clock readings."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("ms", "step_ms", "runs", "created")}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(encode(trace))


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_off_the_same_operators_run_and_on_nothing_changes(translator: Translator) -> None:
    fresh = make_translator(positions=translator.model.config.positions)
    runs = []
    for one in (fresh, translator):  # the second has been traced
        translator.trace(TEXT)
        with Operators() as operators:
            found = one.generate([TEXT, "w7"], beam_size=3, n_best=3)
        runs.append((operators.names, found))
    assert runs[0] == runs[1]
    assert not [name for name in runs[0][0] if "softmax" in name and "log_softmax" not in name]  # all attention fused
    tokens = torch.tensor([[4, 5]])
    with Operators() as operators, torch.inference_mode():
        fresh.model.encoder.embedder(tokens)
    added = {"sinusoidal": 3, "learned": 3}.get(translator.model.config.positions, 0)  # its rows, their type, the sum
    assert len(operators.names) == 2 + added  # look up, scale


def profiled(translator: Translator) -> tuple[list[str], Any]:
    """The operators that PyTorch's profiler lists, in order, and what was generated."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        found = translator.generate([TEXT, "w7"], beam_size=3)
    return [event.name for event in profiler.events() if event.name.startswith("aten::")], found


def test_the_profiler_lists_the_same_operators_where_there_is_no_tracing(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator.trace(TEXT)
    with_tracing = profiled(translator)
    assert len(with_tracing[0]) > 1000
    for name in [name for name in sys.modules if name.startswith(("pellucid.tracer", "pellucid.tracing"))]:
        monkeypatch.setitem(sys.modules, name, None)
    plain = make_translator(positions=translator.model.config.positions)
    with pytest.raises(ImportError):
        plain.trace(TEXT)
    assert profiled(plain) == with_tracing
