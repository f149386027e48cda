"""Training from a model that is there: its weights, tokenizers and settings, and what contradicts it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hf_twins import TEXTS, TWINS, make_bert, make_twin, transformers
from marian_twin import SIDES, MarianNpz

import pellucid
from pellucid.cli import main
from pellucid.config import ModelConfig, TokenizerConfig, dump_config, load_config, parse_config
from pellucid.errors import ConfigError, ModelFolderError
from pellucid.experiment import train
from pellucid.interop.huggingface.bert import load_encoder, load_source_tokenizer
from pellucid.starting import find_start
from pellucid.training.log import Silent
from toys import toy_settings

LENGTHS = {"max_source_tokens": 17, "max_target_tokens": 17}


def continued(corpus: Path, output: Path, start: Path, updates: int = 2, **groups: Any) -> dict[str, Any]:
    """Settings that say nothing of a model: they are those of the start."""
    settings = toy_settings(corpus, output)
    del settings["model"], settings["tokenizer"], settings["decoding"]
    settings["training"] |= {
        "init_from": str(start), "max_updates": updates, "validate_every": updates, "learning_rate": 1e-9,
        "metric": "loss", "warmup_steps": 0, "schedule": "constant",
    }  # fmt: skip
    for name, group in groups.items():
        settings[name] = {**settings.get(name, {}), **group}
    return settings


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises((ConfigError, ModelFolderError)) as caught:
        train(parse_config(settings), Silent())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_goes_on_from_a_models_weights(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    settings = continued(toy_corpus, tmp_path / "run", tiny_run)
    train(parse_config(settings), Silent())
    before, after = pellucid.load(tiny_run, "cpu"), pellucid.load(tmp_path / "run", "cpu")
    for (name, old), (_, new) in zip(before.model.named_parameters(), after.model.named_parameters(), strict=True):
        torch.testing.assert_close(new, old, atol=1e-6, rtol=0, msg=name)  # the learning rate is next to nothing
    assert after.source_tokenizer.fingerprint == before.source_tokenizer.fingerprint
    assert after.decoding == before.decoding
    stored = load_config(tmp_path / "run" / "config.yaml")
    assert (stored.model.hidden_size, stored.tokenizer.kind, stored.decoding.beam_size) == (32, "symbols", 2)


def test_the_run_resumes_without_the_model(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(tiny_run / "best", start)
    settings = continued(toy_corpus, tmp_path / "run", start)
    train(parse_config(settings), Silent())
    shutil.rmtree(start)
    assert train(parse_config(settings), Silent()).finished
    settings["model"] = {"hidden_size": 64}
    assert "model.hidden_size (32 → 64)" in refusal(settings)


def test_pooled_heads_are_trained_on(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    """The recipe in small: convert --kv-heads, then train from the result."""
    assert main(["convert", str(tiny_run), str(tmp_path / "pooled"), "--kv-heads", "1"]) == 0
    settings = continued(toy_corpus, tmp_path / "run", tmp_path / "pooled", 30, training={"learning_rate": 0.01})
    train(parse_config(settings), Silent())
    model = pellucid.load(tmp_path / "run", "cpu")
    assert (model.model.config.self_kv_heads, model.model.config.cross_kv_heads) == (1, 1)
    pairs = [(toy_corpus / f"dev.{side}").read_text().splitlines() for side in ("src", "tgt")]
    pooled = pellucid.load(tmp_path / "pooled", "cpu")
    losses = [-sum(score.score for score in m.score(*pairs, length_penalty="none")) for m in (pooled, model)]
    assert losses[1] < losses[0] / 2


def test_settings_that_agree_may_be_stated_and_dropouts_changed(
    tiny_run: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    said = toy_settings(toy_corpus)
    dropouts = {"dropout": 0.3, "attention_dropout": 0.2, "ff_dropout": 0.15, "word_dropout": 0.1}
    assert dropouts.keys() == {name for name in ModelConfig.model_fields if "dropout" in name}
    settings = continued(
        toy_corpus, tmp_path / "run", tiny_run, tokenizer=said["tokenizer"], decoding={"beam_size": 3},
        model={**said["model"], **dropouts, "head_dim": 16, "norm_epsilon": 1e-5},
    )  # fmt: skip
    config = find_start(parse_config(settings)).config
    assert config.model.model_dump(include=set(dropouts)) == dropouts
    assert config.decoding.beam_size == 3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            {"model": {"hidden_size": 64, "num_kv_heads": 1}},
            "model.hidden_size = 64 (there 32); model.num_kv_heads = 1 (",
        ),
        ({"tokenizer": {"kind": "characters"}}, "tokenizer.kind = characters (there symbols)"),
        (
            {"tokenizer": {"joint": False}, "model": {"tied_embeddings": "two"}},
            "model.tied_embeddings = two (there three)",
        ),
        ({"tokenizer": {"placeholders": ["url"]}}, "tokenizer.placeholders = ('url',) (there ())"),
        ({"tokenizer": {"source_script": "simplified"}}, "tokenizer.source_script = simplified (there none)"),
        ({"training": {"init_from": "nowhere"}}, "nowhere: no such model folder"),
        ({"training": {"encoder_from": "x"}}, "give init_from or encoder_from, not both"),
    ],
)
def test_settings_that_contradict_the_model(
    tiny_run: Path, toy_corpus: Path, tmp_path: Path, groups: dict[str, Any], said: str
) -> None:
    settings = continued(toy_corpus, tmp_path / "run", tiny_run, **groups)
    assert said in refusal(settings)
    assert not (tmp_path / "run" / "last").exists()


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    for name in ("train", "dev"):
        lines = TEXTS[:4] if name == "dev" else TEXTS * 4
        (folder / f"{name}.src").write_text("".join(f"{text}\n" for text in lines))
        (folder / f"{name}.tgt").write_text("".join(f"{text}\n" for text in lines[::-1]))
    return folder


@pytest.mark.parametrize("name", ["marian", "nllb", "mbart"])
def test_fine_tuning_a_checkpoint_sees_what_the_translator_sees(name: str, tmp_path: Path) -> None:
    """The loss on dev is that of forced scoring: special tokens and codes stand where they do there."""
    (tmp_path / "there").mkdir()
    make_twin(name, tmp_path / "there")
    if TWINS[name].languages:
        source, target = TWINS[name].languages
        languages = ["--source-language", source, "--target-language", target]
        unsaid = continued(write_corpus(tmp_path / "d"), tmp_path / "r", tmp_path / "there")
        assert "convert --source-language" in refusal(unsaid)
    else:
        languages = []
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "start"), *languages]) == 0
    data = write_corpus(tmp_path / "data")
    settings = continued(
        data,
        tmp_path / "run",
        tmp_path / "start",
        1,
        data={"max_unknown": 0.9, "max_source_tokens": 62, "max_target_tokens": 62},
    )
    train(parse_config(settings), Silent())
    model = pellucid.load(tmp_path / "start", "cpu")
    pairs = [(data / f"dev.{side}").read_text().splitlines() for side in ("src", "tgt")]
    scores = model.score(*pairs, length_penalty="none", forced_score="counted")
    expected = -sum(sum(score.token_logprobs) for score in scores) / sum(len(score.token_logprobs) for score in scores)
    records = [yaml.safe_load(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = next(record["loss"] for record in records if record["kind"] == "validation")
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_the_config_of_a_run_says_what_is_true_and_can_be_used_again(name: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    make_twin(name, tmp_path / "there")
    languages = [f"--{side}-language={code}" for side, code in zip(SIDES, TWINS[name].languages or (), strict=False)]
    start = tmp_path / "start" if languages else tmp_path / "there"
    assert not languages or main(["convert", str(tmp_path / "there"), str(start), *languages]) == 0
    settings = continued(tmp_path, tmp_path / "run", start, data=LENGTHS)
    first = find_start(parse_config(settings))
    assert first.tokenizers is not None
    assert first.config.tokenizer.vocab_size == max(side.vocab_size for side in first.tokenizers if side is not None)
    assert first.config.tokenizer.kind == ("characters" if name == "byt5" else "sentencepiece")
    (tmp_path / "config.yaml").write_text(dump_config(first.config))
    again = find_start(load_config(tmp_path / "config.yaml", ["output=elsewhere"]))
    assert again.config == first.config.model_copy(update={"output": "elsewhere"})


@pytest.mark.parametrize("kind", ["sentencepiece", "characters"])
def test_the_kind_of_a_foreign_tokenizer_may_be_stated(kind: str, tmp_path: Path) -> None:
    make_twin("marian", tmp_path)
    said = {"kind": kind, "target_kind": kind, "vocab_size": 9000}
    settings = parse_config(continued(tmp_path, tmp_path / "run", tmp_path, tokenizer=said, data=LENGTHS))
    if kind == "characters":
        with pytest.raises(ConfigError, match=r"tokenizer.kind = characters \(there sentencepiece\)"):
            find_start(settings)
    else:
        stored = find_start(settings).config.tokenizer
        assert stored.model_dump(include=said.keys()) == said, "what is stated stays, so that the run can go on"


def test_splits_cannot_be_drawn_from_a_foreign_tokenizer(tmp_path: Path) -> None:
    make_twin("marian", tmp_path)
    settings = continued(tmp_path, tmp_path / "run", tmp_path, tokenizer={"sampling_alpha": 0.2}, data=LENGTHS)
    with pytest.raises(ConfigError, match=r"sampling_alpha = 0.2: the tokenizers of .* have no list of best splits"):
        find_start(parse_config(settings))


def test_a_word_tokenizer_has_the_nearest_kind(tmp_path: Path) -> None:
    MarianNpz(files="words").save(tmp_path)
    settings = continued(tmp_path, tmp_path / "run", tmp_path)
    found = find_start(parse_config(settings)).config.tokenizer
    assert (found.kind, found.target_kind, found.joint) == ("symbols", None, True)
    for side in SIDES:
        (tmp_path / f"{side}.bpe").write_text("#version: 0.2\ns h\nsh e</w>\n")
    assert find_start(parse_config(settings)).config.tokenizer.kind == "sentencepiece"


def test_a_run_from_a_foreign_model_goes_on_and_is_begun_again_from_its_own_config(tmp_path: Path) -> None:
    make_twin("marian", tmp_path)
    data = write_corpus(tmp_path / "data")
    settings = continued(data, tmp_path / "a", tmp_path, 1, data={"max_unknown": 0.9})
    train(parse_config(settings), Silent())
    assert train(parse_config(settings), Silent()).finished
    own = tmp_path / "a" / "config.yaml"
    assert train(load_config(own), Silent()).finished
    assert train(load_config(own, [f"output={tmp_path / 'b'}"]), Silent()).finished
    assert load_config(tmp_path / "b" / "config.yaml").tokenizer == load_config(own).tokenizer != TokenizerConfig()


# -- a BERT encoder


def write_bert(folder: Path, **settings: Any) -> list[str]:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ba", "da", "ga", "ka", "la", "ma", "na", "pa", "ra", "ta"]
    make_bert(folder, vocab_size=len(pieces), **settings)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    return pieces


def encoder_settings(corpus: Path, output: Path, bert: Path, **groups: Any) -> dict[str, Any]:
    settings = continued(corpus, output, bert, **groups)
    del settings["training"]["init_from"]
    settings["training"]["encoder_from"] = str(bert)
    settings["tokenizer"] = {"kind": "symbols", **groups.get("tokenizer", {})}
    settings["data"] |= {**LENGTHS, **groups.get("data", {})}
    return settings


def test_the_encoder_of_a_new_model_is_berts(toy_corpus: Path, tmp_path: Path) -> None:
    bert = tmp_path / "bert"
    pieces = write_bert(bert)
    settings = encoder_settings(toy_corpus, tmp_path / "run", bert, model={"decoder_layers": 2, "dropout": 0.0})
    train(parse_config(settings), Silent())
    model = pellucid.load(tmp_path / "run", "cpu")
    config = model.model.config
    assert (config.encoder_layers, config.decoder_layers, config.tied_embeddings) == (3, 2, "two")
    encoder, _ = load_encoder(bert)
    ids = model.source_ids("ba ka  ta", model.settings())
    assert model.source_tokenizer.pieces(ids) == ["[CLS]", "ba", "ka", "ta"]
    tokens = torch.tensor([[*ids, pieces.index("[SEP]")]])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        expected = encoder(tokens, mask)
        assert (model.model.encode(tokens, mask) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert model.generate(["ba ka"])[0].hypotheses
    assert train(parse_config(settings), Silent()).finished
    again = find_start(load_config(tmp_path / "run" / "config.yaml", ["output=elsewhere"]))
    assert again.config.tokenizer.kind == "symbols"


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"model": {"tied_embeddings": "three"}}, "set it to two or none"),
        ({"tokenizer": {"joint": True}}, "tokenizer.joint = True"),
        ({"model": {"norm_placement": "pre"}}, "model.norm_placement = pre (there post)"),
        ({"data": {"max_source_tokens": 500}}, "model.max_positions (20) is shorter"),
    ],
)
def test_what_a_bert_encoder_does_not_allow(
    toy_corpus: Path, tmp_path: Path, groups: dict[str, Any], said: str
) -> None:
    write_bert(tmp_path / "bert")
    settings = encoder_settings(toy_corpus, tmp_path / "run", tmp_path / "bert", **groups)
    assert said in refusal(settings)


def test_a_bert_tokenizer_is_that_of_transformers(tmp_path: Path) -> None:
    pieces = write_bert(tmp_path)
    library = transformers()
    theirs = library.BertTokenizer.from_pretrained(tmp_path)
    ours = load_source_tokenizer(tmp_path, {}, len(pieces))
    for text in ("ba KA, xyz", "Tá la", "ba [MASK] ka"):
        assert [*ours.prefix_ids, *ours.encode(text), ours.eos_id] == theirs(text)["input_ids"]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in [*pieces, "more"]))
    with pytest.raises(ModelFolderError, match="has 16 tokens and the model 15: not the tokenizer of this BERT"):
        load_source_tokenizer(tmp_path, {}, len(pieces))
    (tmp_path / "vocab.txt").write_text("ba\n[UNK]\n")
    with pytest.raises(ModelFolderError, match=r"has no \[PAD\]"):
        load_source_tokenizer(tmp_path, {}, len(pieces))
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(ModelFolderError, match="no tokenizer"):
        load_source_tokenizer(tmp_path, {}, len(pieces))
