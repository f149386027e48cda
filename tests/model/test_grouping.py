"""Pooling key/value heads: what it computes, what it leaves alone, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import pellucid
from pellucid.cli import main
from pellucid.config import ModelConfig
from pellucid.errors import ConfigError
from pellucid.model.alone import DecoderOnly
from pellucid.model.attention import Attention
from pellucid.model.grouping import pool_heads
from pellucid.model.storage import load_model
from pellucid.model.transformer import EncoderDecoder

SIZES = {"hidden_size": 16, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 4, "ff_size": 24}


def model_of(seed: int = 0, **settings: object) -> EncoderDecoder:
    torch.manual_seed(seed)
    made = EncoderDecoder(ModelConfig.model_validate({**SIZES, **settings}), 11, 11)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.tensor([[4, 5, 6, 7, 3], [8, 9, 3, 0, 0]])
    return source, source != 0, torch.tensor([[2, 5, 4, 6], [2, 9, 8, 7]])


@torch.inference_mode()
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_new_head_is_the_mean_of_its_neighbours(heads: int, bias: bool) -> None:
    model = model_of(bias=bias)
    pooled = pool_heads(model, heads)
    assert (pooled.config.self_kv_heads, pooled.config.cross_kv_heads) == (heads, heads)
    per, size = 4 // heads, 4
    for before, after in zip(model.modules(), pooled.modules(), strict=True):
        if not isinstance(before, Attention):
            continue
        assert isinstance(after, Attention)
        assert after.num_kv_heads == heads
        for name in ("key", "value"):
            old, new = getattr(before, name), getattr(after, name)
            for head in range(heads):
                rows = [old.weight[(head * per + i) * size : (head * per + i + 1) * size] for i in range(per)]
                torch.testing.assert_close(new.weight[head * size : (head + 1) * size], sum(rows) / per)
            if bias:
                assert new.bias.shape == (heads * size,)
        torch.testing.assert_close(after.query.weight, before.query.weight)
    assert model.config.self_kv_heads == 4


@torch.inference_mode()
def test_heads_that_are_alike_give_the_same_logits() -> None:
    """Query head h still meets its own key/value head: where those of a group are equal, pooling changes nothing."""
    model = model_of()
    for module in model.modules():
        if isinstance(module, Attention):
            for linear in (module.key, module.value):
                for tensor in (linear.weight, linear.bias):
                    heads = tensor.view(2, 2, 4, -1)
                    heads[:, 1] = heads[:, 0]
    logits = model(*batch())
    torch.testing.assert_close(pool_heads(model, 2)(*batch()), logits)
    assert not torch.allclose(pool_heads(model, 1)(*batch()), logits)
    torch.testing.assert_close(pool_heads(model, 4)(*batch()), logits)


@torch.inference_mode()
def test_what_is_grouped_already_is_pooled_further() -> None:
    model = model_of(num_kv_heads=2, cross_num_kv_heads=4)
    assert pool_heads(model, 2).config.cross_kv_heads == 2
    assert pool_heads(model, 1)(*batch()).isfinite().all()
    alone = DecoderOnly(ModelConfig.model_validate(SIZES), 11).eval()
    assert pool_heads(alone, 1).start_cache(1).cross[0][0].shape[1] == 1
    with pytest.raises(ConfigError, match=r"from the 2 of self-attention: the number must divide them \(1, 2\)"):
        pool_heads(model, 4)


@pytest.mark.parametrize("heads", [0, -1, 3, 8])
def test_numbers_that_do_not_divide(heads: int) -> None:
    with pytest.raises(ConfigError, match=r"must divide them \(1, 2, 4\)"):
        pool_heads(model_of(), heads)


def test_a_run_becomes_a_smaller_model(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(tiny_run), str(out), "--kv-heads", "1"]) == 0
    pooled, document = load_model(out)
    before = pellucid.load(tiny_run, "cpu")
    assert pooled.config.num_kv_heads == 1
    assert document["update"] == before.document["update"]
    torch.testing.assert_close(pooled.encoder.embedder.embedding.weight, before.model.encoder.embedder.embedding.weight)
    assert pellucid.load(out, "cpu").decoding == before.decoding
    capsys.readouterr()
    assert main(["convert", str(tiny_run), str(tmp_path / "more"), "--kv-heads", "3"]) == 2
    assert "must divide them" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
    assert yaml.safe_load((out / "config.json").read_text())["model"]["cross_num_kv_heads"] is None
