"""Models that are broken in one place each: the doctor names the place; a sound one passes every check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doctor_cases import sentences

from pellucid.config import parse_config
from pellucid.data.byte_tokenizer import ByteTokenizer
from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.prepare import PreparedData, prepare
from pellucid.doctor import model as module
from pellucid.doctor.model import check_model, few_pairs, kept_estimate, memory_estimate, shifted
from pellucid.doctor.results import Check
from pellucid.doctor.settings import Facts
from pellucid.model.transformer import EncoderDecoder

WORLD = sentences()

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "default": {},
    "post-norm": dict(model__norm_placement="post", model__attention_dropout=0.1),
    "rotary, grouped": dict(
        model__positions="rotary", model__num_kv_heads=1, model__norm="rmsnorm", model__activation="swiglu"
    ),
    "relative, untied": dict(model__positions="relative", model__tied_embeddings="none", model__output_bias=True),
    "learned": dict(model__positions="learned"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    folder = tmp_path_factory.mktemp("good")
    return folder, prepare(WORLD.config(folder), folder / "prepared")


@pytest.fixture
def build(prepared: tuple[Path, PreparedData]) -> Callable[..., tuple[EncoderDecoder, Facts]]:
    folder, data = prepared

    def make(**changes: Any) -> tuple[EncoderDecoder, Facts]:
        config = parse_config(WORLD.nested(folder, **changes))
        sizes = data.source_tokenizer.vocab_size, data.target_tokenizer.vocab_size
        return EncoderDecoder(config.model, *sizes), Facts(config, data)

    return make


Build = Callable[..., tuple[EncoderDecoder, Facts]]


def checks_of(model: EncoderDecoder, facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in check_model(model, facts)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sound_model_passes(name: str, build: Build) -> None:
    checks = checks_of(*build(**ARCHITECTURES[name]))
    assert [check for check in checks.values() if check.verdict != "ok"] == []
    assert len(checks) == 8


def see_the_future(model: EncoderDecoder) -> None:
    model.decoder.causal = False


def attend_to_padding(model: EncoderDecoder) -> None:
    encode = model.encoder.forward
    model.encoder.forward = lambda tokens, mask, *more: encode(tokens, torch.ones_like(mask), *more)  # type: ignore[method-assign]


def cut_the_encoder_off(model: EncoderDecoder) -> None:
    encode = model.encoder.forward
    model.encoder.forward = lambda *inputs: encode(*inputs) * 0.0  # type: ignore[method-assign]


def draw_huge_weights(model: EncoderDecoder) -> None:
    torch.nn.init.normal_(model.output.weight)


def leave_a_layer_out(model: EncoderDecoder) -> None:
    model.decoder.layers[1].forward = lambda x, *inputs: x


def detach_the_encoder(model: EncoderDecoder) -> None:
    encode = model.encoder.forward
    model.encoder.forward = lambda *inputs: encode(*inputs).detach()  # type: ignore[method-assign]


def poison(model: EncoderDecoder) -> None:
    with torch.no_grad():
        next(model.parameters())[4:].fill_(float("nan"))


def freeze_everything(model: EncoderDecoder) -> None:
    model.requires_grad_(False)
    model.decoder.norm.requires_grad_(True)


SICK: dict[str, tuple[Callable[[EncoderDecoder], None], str, str]] = {
    "no causal mask": (see_the_future, "causal mask", "mend the causal mask"),
    "no padding mask": (attend_to_padding, "padding mask", "padding is attended to"),
    "a decoder without a source": (
        cut_the_encoder_off,
        "source and its order reach the output",
        "does not see the encoder",
    ),
    "weights far too large": (draw_huge_weights, "loss of the untrained model", "initialised far too large"),
    "a layer that is left out": (leave_a_layer_out, "every parameter gets a gradient", "decoder.layers.1."),
    "an encoder that learns nothing": (detach_the_encoder, "every parameter gets a gradient", "encoder.layers.0."),
    "weights that are no numbers": (poison, "loss of the untrained model", "loss is nan"),
    "almost all is frozen": (freeze_everything, "one batch can be learned by heart", "cannot learn even by heart"),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_model_is_found(name: str, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sick, check, says = SICK[name]
    monkeypatch.setattr(module, "STEPS", 60)
    model, facts = build()
    make_sick(model)
    found = checks_of(model, facts)[check]
    assert found.found and says in found.sentence, found


def test_a_token_that_a_bias_forbids_hides_nothing(build: Build) -> None:
    """Marian's models write no padding: its logit is far below all others, and the largest in size."""
    model, facts = build(model__output_bias=True)
    with torch.no_grad():
        model.output.bias[facts.data.target_tokenizer.pad_id] = -1e7
    batch = few_pairs(facts)
    model.eval()
    assert (module.padding(model, batch).verdict, module.causal(model, batch).verdict) == ("ok", "ok")
    attend_to_padding(model)
    assert module.padding(model, batch).verdict == "wrong"


def test_a_target_that_is_not_shifted_is_found(build: Build) -> None:
    _, facts = build()
    batch = few_pairs(facts)
    assert shifted(batch).verdict == "ok"
    assert shifted(replace(batch, target_in=batch.target_out)).verdict == "wrong"
    assert "handed the answers" in shifted(replace(batch, target_in=batch.target_in.roll(1, 1))).sentence


def test_answers_that_are_handed_over_are_seen_in_the_loss(build: Build) -> None:
    model, facts = build(model__hidden_size=128)
    batch = few_pairs(facts)
    found = module.first_loss(model.eval(), replace(batch, target_in=batch.target_out))
    assert found.found and "it knows the answers" in found.sentence, found


def test_a_trained_model_may_know_the_text_and_not_be_worse_than_ignorant(build: Build) -> None:
    model, facts = build(training__init_from="some/model")
    batch = few_pairs(facts)
    assert not module.overfits(model, batch).found
    assert checks_of(model, facts)["loss of the model to start from"].verdict == "ok"
    assert module.first_loss(model.eval(), batch).found
    assert not module.first_loss(model, batch, trained=True).found
    assert not module.overfits(model, batch).found
    draw_huge_weights(model)
    found = module.first_loss(model, batch, trained=True)
    assert found.found and "other languages or the other direction" in found.sentence


def test_pairs_are_framed_by_the_tokenizers_of_the_model(build: Build) -> None:
    """ByT5's numbers: padding 0, the end 1, and padding is what a target begins with."""
    model, facts = build()
    tokenizer = ByteTokenizer(Specials(pad=0, eos=1, unk=2, bos=0), model.target_vocab_size)
    data = replace(facts.data, source_tokenizer=tokenizer, target_tokenizer=tokenizer)
    batch = few_pairs(replace(facts, data=data))
    assert (batch.source_pad, batch.target_pad) == (0, 0) and (batch.target_in[:, 0] == 0).all()
    assert {int(row[mask][-1]) for row, mask in zip(batch.source, batch.source_mask, strict=True)} == {1}


@pytest.mark.parametrize("pad", [0, 9])
def test_later_tokens_are_changed_to_ordinary_ones(pad: int, build: Build) -> None:
    _, facts = build()
    batch = replace(few_pairs(facts), target_pad=pad)
    tokens = torch.arange(12)[None]
    changed = module._others(tokens, batch, 12)
    assert not (changed == tokens).any()
    assert not {pad, int(batch.target_in[0, 0])} & set(changed.flatten().tolist())


def test_r_drop_takes_the_memory_of_two_readings(build: Build) -> None:
    def activations(**changes: Any) -> int:
        model, facts = build(**changes)
        return memory_estimate(model, facts, 200, 24, 24) - memory_estimate(model, facts, 100, 24, 24)

    assert activations(training__r_drop=5.0) == 2 * activations()


def test_the_largest_batch_must_fit_into_memory(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda device: 1000)
    model, facts = build()
    found = module.memory(model, facts)
    assert found.found and "lower training.batch_tokens (1,024)" in found.sentence
    monkeypatch.undo()
    assert (module.available_memory(torch.device("cpu")) or 0) > 2**20


def test_the_memory_of_a_batch_grows_with_its_rows_and_the_weights_are_counted_once(build: Build) -> None:
    model, facts = build(model__attention_dropout=0.1)
    state = torch.get_rng_state()
    one, two, three = (memory_estimate(model, facts, rows, 24, 24) for rows in (100, 200, 300))
    assert three - two == two - one > 0
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert one - (two - one) >= 4 * weights
    assert torch.equal(torch.get_rng_state(), state)


def test_the_estimate_is_what_the_backward_pass_is_handed(build: Build) -> None:
    """Every tensor that a real batch keeps for its backward pass, counted once, beside what is said of it."""
    model, facts = build()
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = few_pairs(facts)
    rows, source, target = len(batch.indices), batch.source.shape[1], batch.target_in.shape[1]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.train().decode(batch.source, batch.source_mask, batch.target_in)
    assert kept_estimate(model, facts, rows, source, target) == pytest.approx(sum(kept.values()), rel=0.1)
    del states
