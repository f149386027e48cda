"""Scheduled sampling: what is replaced by what, when, and that it goes on exactly."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.config import ModelConfig, TrainingConfig, parse_config
from pellucid.data.batches import Batch, collate
from pellucid.data.tokenizer_kinds import BOS, EOS, PAD
from pellucid.experiment import train
from pellucid.model.randomness import rows_of_batch
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.log import Silent
from pellucid.training.scheduled_sampling import BLOCK_TOKENS, mixed_batch, sampled_share
from runs import Ending, full_settings, traces
from toys import write_toy_corpus

VOCAB = 13


@pytest.fixture
def model() -> EncoderDecoder:
    """In training mode but for one part, with so much dropout that predictions with and without it differ."""
    torch.manual_seed(3)
    sizes = dict(hidden_size=16, num_heads=2, ff_size=24, encoder_layers=1, decoder_layers=1)
    made = EncoderDecoder(ModelConfig(**sizes, output_bias=True, dropout=0.5, tied_embeddings="none"), VOCAB, VOCAB)
    made.train()
    made.encoder.norm.eval()
    return made


@pytest.fixture
def batch() -> Batch:
    return collate([[5, 6, 7], [8], [9, 4]], [[9, 5, 5, 12], [10, 11, 12, 4, 7, 8, 6], [6]])


def predictions(model: EncoderDecoder, batch: Batch) -> torch.Tensor:
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        best = model(batch.source, batch.source_mask, batch.target_in).argmax(-1)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return best


@pytest.mark.parametrize("seed", range(4))
def test_at_share_1_the_decoder_reads_what_it_would_have_written_one_step_before(
    seed: int, model: EncoderDecoder, batch: Batch
) -> None:
    torch.nn.init.normal_(model.output.weight)
    best = predictions(model, batch)
    mixed = mixed_batch(model, batch, 1.0, "argmax")
    changed = 0
    for row in range(3):
        for place in range(batch.target_in.shape[1]):
            gold, found = batch.target_in[row, place].item(), mixed.target_in[row, place].item()
            own = best[row, place - 1].item() if place else BOS
            stays = place == 0 or gold == PAD or own in (PAD, BOS, EOS)
            assert found == (gold if stays else own), (row, place)
            changed += found != gold
    assert changed > 5
    assert mixed.target_out is batch.target_out
    assert mixed.source is batch.source
    assert mixed.num_tokens == batch.num_tokens


def test_the_first_pass_leaves_no_trace(model: EncoderDecoder, batch: Batch) -> None:
    before = batch.target_in.clone()
    modes = [module.training for module in model.modules()]
    assert not mixed_batch(model, batch, 1.0, "argmax").target_in.equal(before)
    assert batch.target_in.equal(before)
    assert [module.training for module in model.modules()] == modes
    assert True in modes and False in modes
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("end", [BOS, EOS, PAD])
def test_where_the_model_would_have_ended_gold_stays(end: int, model: EncoderDecoder, batch: Batch) -> None:
    assert model.output.bias is not None
    torch.nn.init.zeros_(model.output.bias)
    model.output.bias.data[end] = 100.0
    assert mixed_batch(model, batch, 1.0, "argmax").target_in.equal(batch.target_in)


def test_the_share_is_that_of_real_tokens_each_drawn_for_itself(model: EncoderDecoder) -> None:
    assert model.output.bias is not None
    model.output.bias.data[7] = 100.0  # always the same prediction, which gold never has
    batch = collate([[5]] * 400, [[9] * (5 + row % 6) for row in range(400)])
    drawn = [mixed_batch(model, batch, 0.3, "argmax").target_in == 7 for _ in range(2)]
    real = batch.target_mask.clone()
    real[:, 0] = False
    assert not (drawn[0] & ~real).any()
    assert drawn[0][real].float().mean().item() == pytest.approx(0.3, abs=0.03)
    both = (drawn[0] & drawn[1])[real].float().mean().item()
    assert both == pytest.approx(0.09, abs=0.025), "the draws of two calls, and of two places, are independent"
    neighbours = (drawn[0][:, 1:5] & drawn[0][:, 2:6]).float().mean().item()
    assert neighbours == pytest.approx(0.09, abs=0.025)
    torch.manual_seed(5)
    once = mixed_batch(model, batch, 0.3, "argmax").target_in
    torch.manual_seed(5)
    assert mixed_batch(model, batch, 0.3, "argmax").target_in.equal(once)
    assert mixed_batch(model, batch, 0.0, "argmax") is batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_of_the_models_distribution(dtype: torch.dtype, model: EncoderDecoder) -> None:
    assert model.output.bias is not None
    torch.nn.init.zeros_(model.output.weight)
    odds = {6: 0.5, 8: 0.3, 11: 0.2}
    model.output.bias.data.fill_(-100.0)
    for token, p in odds.items():
        model.output.bias.data[token] = math.log(p)
    batch = collate([[5]] * 300, [[9] * 10] * 300)
    assert 4 * BLOCK_TOKENS < 300 * 10
    found = mixed_batch(model, batch, 1.0, "sample", dtype).target_in[:, 1:]
    for token, p in odds.items():
        assert (found == token).float().mean().item() == pytest.approx(p, abs=0.04)
    assert mixed_batch(model, batch, 1.0, "argmax", dtype).target_in[:, 1:].eq(6).all()


@pytest.mark.parametrize("choice", ["argmax", "sample"])
def test_rows_of_a_batch_are_mixed_as_in_the_whole_batch(choice: str, model: EncoderDecoder, batch: Batch) -> None:
    """What several processes do that share a batch; afterwards all are at the same random number."""
    torch.manual_seed(4)
    whole = mixed_batch(model, batch, 0.6, choice).target_in
    expected = torch.rand(1)
    assert not whole.equal(batch.target_in)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        part = replace(batch, **{name: getattr(batch, name)[rows] for name in ("source", "target_in", "target_out")})
        torch.manual_seed(4)
        with rows_of_batch(3, rows):
            assert mixed_batch(model, part, 0.6, choice).target_in.equal(whole[rows])
        assert torch.rand(1) == expected
    nothing = replace(batch, target_out=torch.full_like(batch.target_out, PAD))
    torch.manual_seed(4)
    assert mixed_batch(model, nothing, 0.6, choice).target_in.equal(batch.target_in)
    assert torch.rand(1) == expected


def test_weights_that_are_no_numbers_raise_nothing_here(model: EncoderDecoder, batch: Batch) -> None:
    """The loss says so, in a sentence."""
    torch.nn.init.constant_(model.output.weight, math.nan)
    for choice in ("argmax", "sample"):
        assert mixed_batch(model, batch, 1.0, choice).target_in.max() < VOCAB


def test_off_is_off() -> None:
    config = TrainingConfig(scheduled_sampling=0.0, scheduled_sampling_schedule="constant")
    assert [sampled_share(config, update, 100) for update in (1, 100)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "start", "expected"),
    [
        # By hand: 0.4 · (update − start)/(100 − start).
        ("linear", 0, {1: 0.004, 50: 0.2, 100: 0.4}),
        ("linear", 60, {60: 0.0, 61: 0.01, 80: 0.2, 100: 0.4}),
        ("constant", 0, {1: 0.4, 100: 0.4}),
        ("constant", 60, {60: 0.0, 61: 0.4}),
        # k · ln k = 50 has k = 17.47: 0.4 · (1 − 17.47/(17.47 + e^(i/17.47))).
        ("inverse_sigmoid", 0, {1: 0.0229, 25: 0.0772, 50: 0.2, 75: 0.3228, 100: 0.3784}),
        ("inverse_sigmoid", 50, {50: 0.0, 75: 0.2}),
    ],
)
def test_the_course_of_the_share(schedule: Any, start: int, expected: dict[int, float]) -> None:
    config = TrainingConfig(
        scheduled_sampling=0.4, scheduled_sampling_schedule=schedule, scheduled_sampling_start=start
    )
    found = {update: sampled_share(config, update, 100) for update in expected}
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("total", [2, 3, 10, 100_000])
def test_a_sigmoid_rises_from_little_to_nearly_all_in_a_run_of_any_length(total: int) -> None:
    config = TrainingConfig(scheduled_sampling=1.0, scheduled_sampling_schedule="inverse_sigmoid")
    course = [sampled_share(config, update, total) for update in range(1, total + 1, max(1, total // 50))]
    assert course == sorted(course)
    assert 0 < course[0] <= 0.5 <= sampled_share(config, total, total) < 1
    if total > 1000:
        assert course[0] < 0.001 and sampled_share(config, total, total) > 0.999


@pytest.mark.parametrize(
    "training",
    [
        dict(scheduled_sampling_choice="sample", r_drop=5.0),
        dict(scheduled_sampling_choice="argmax", precision="bfloat16", scheduled_sampling_start=1),
    ],
)
def test_a_run_goes_on_exactly(training: dict[str, Any], tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "corpus", pairs=120)

    def settings(name: str) -> dict[str, Any]:
        return full_settings(corpus, tmp_path / name, scheduled_sampling=0.8, max_updates=4, log_every=1, **training)

    train(parse_config(settings("whole")), Silent())
    train(parse_config(settings("stopped")), Ending(3, signal.SIGINT))
    assert json.loads((tmp_path / "stopped" / "last" / "training.json").read_text())["update"] == 3
    assert train(parse_config(settings("stopped")), Silent()).finished
    found = traces(tmp_path / "stopped")
    assert found == traces(tmp_path / "whole")
    course = [record["scheduled_sampling"] for record in found["metrics"] if record["kind"] == "train"]
    start = training.get("scheduled_sampling_start", 0)
    assert course == pytest.approx([max(0.0, 0.8 * (update - start) / (4 - start)) for update in range(1, 5)])


def test_the_trainer_reads_the_mixture(tmp_path: Path) -> None:
    """Without anything else that is random, a share of 0 changes nothing and a share of 1 does."""
    corpus = write_toy_corpus(tmp_path / "corpus", pairs=60)
    ends = []
    for share in (0.0, 1e-12, 1.0):
        settings = full_settings(
            corpus,
            tmp_path / str(share),
            max_updates=2,
            scheduled_sampling=share,
            scheduled_sampling_schedule="constant",
        )
        settings["model"] |= {"dropout": 0.0, "attention_dropout": 0.0, "ff_dropout": 0.0}
        train(parse_config(settings), Silent())
        ends.append(traces(tmp_path / str(share))["last/model.safetensors"])
    assert ends[0] == ends[1] != ends[2]
