"""A model that goes out computes the same in transformers: tokens, logits, greedy and beam output, text."""

from __future__ import annotations

import json
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import make_model, tokenizers, write_folder
from hf_twins import TEXTS, transformers
from safetensors.torch import load_file

import pellucid
from pellucid.config import DecodingConfig, ModelConfig
from pellucid.errors import ConfigError
from pellucid.interop.huggingface.expression import choose_target, rewritten
from pellucid.interop.huggingface.generation_out import generation_document
from pellucid.translator import Translator
from toys import Run

POST, PRE, T5 = (
    dict(norm_placement="post"),
    dict(norm_placement="pre"),
    # transformers makes T5's cache with as many layers as the encoder has.
    dict(
        norm="rmsnorm",
        positions="relative",
        bias=False,
        scale_embeddings=False,
        scale_attention=False,
        encoder_layers=3,
    ),
)
LEARNED = dict(positions="learned", max_positions=100, embedding_norm=True)
# settings of the model, kind of tokenizer, one vocabulary?, model_type
CASES: dict[str, tuple[dict[str, Any], str, bool, str]] = {
    "default": ({}, "sentencepiece", True, "pegasus"),
    "pre, halves, biases": (
        dict(sinusoidal_layout="halves", output_bias=True, tied_embeddings="inputs"), "characters", True, "pegasus",
    ),
    "post": (POST, "sentencepiece", True, "marian"),
    "post, no biases": ({**POST, "bias": False, "activation": "silu"}, "symbols", True, "marian"),
    "post, two vocabularies": (
        {**POST, "tied_embeddings": "two", "activation": "gelu"}, "sentencepiece", False, "marian",
    ),
    "post, untied": ({**POST, "tied_embeddings": "none", "output_bias": True}, "sentencepiece", False, "marian"),
    "post, learned": ({**POST, **LEARNED, "activation": "gelu_tanh"}, "sentencepiece", True, "bart"),
    "pre, learned": ({**LEARNED, "scale_embeddings": False}, "letters", True, "mbart"),
    "fairseq positions": (
        dict(sinusoidal_layout="fairseq", first_position=1, tied_embeddings="inputs"), "sentencepiece", True, "m2m_100",
    ),
    "relative": ({**T5, "scale_output": True, "head_dim": 6}, "sentencepiece", True, "t5"),
    "relative, gated": ({**T5, "tied_embeddings": "inputs", "activation": "geglu"}, "symbols", True, "t5"),
    "relative, swiglu": (
        {**T5, "tied_embeddings": "inputs", "activation": "swiglu", "norm_epsilon": 1e-3}, "characters", True, "t5",
    ),
    "relative, tanh": ({**T5, "scale_output": True, "activation": "geglu_tanh"}, "letters", True, "t5"),
}  # fmt: skip


@dataclass
class Pair:
    """A model of ours, and what transformers loads of it."""

    ours: Translator
    folder: Path
    theirs: Any
    tokenizer: Any

    def generate(self, texts: list[str], **settings: Any) -> tuple[list[list[int]], list[str]]:
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        ids = self.theirs.generate(batch.input_ids, attention_mask=batch.attention_mask, **settings)
        eos = self.ours.target_tokenizer.eos_id
        rows = [row[: row.index(eos) + 1] if eos in row else row for row in ids[:, 1:].tolist()]
        return rows, [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from pellucid.cli import main

    settings, kind, joint, model_type = CASES[request.param]
    folder = tmp_path_factory.mktemp("export")
    write_folder(folder / "ours", kind=kind, joint=joint, **settings)
    assert main(["export", str(folder / "ours"), "--to", "hf", str(folder / "hf")]) == 0
    assert json.loads((folder / "hf" / "config.json").read_text())["model_type"] == model_type
    library = transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers recommends a package here and there
        theirs, info = library.AutoModelForSeq2SeqLM.from_pretrained(folder / "hf", output_loading_info=True)
        tokenizer = library.AutoTokenizer.from_pretrained(folder / "hf")
    assert not any(info.values()), info
    return Pair(pellucid.load(folder / "ours", "cpu"), folder / "hf", theirs.eval(), tokenizer)


def test_texts_become_the_same_tokens_and_tokens_the_same_text(pair: Pair) -> None:
    for text in [*TEXTS, "she is über", "two  spaces", " at the ends ", "été"]:
        expected = [*pair.ours.source_tokenizer.encode(text), pair.ours.source_tokenizer.eos_id]
        assert pair.tokenizer(text).input_ids == expected, text
        assert pair.tokenizer(text_target=text).input_ids == [
            *pair.ours.target_tokenizer.encode(text), pair.ours.target_tokenizer.eos_id
        ], text  # fmt: skip


@torch.inference_mode()
def test_logits_are_the_same(pair: Pair) -> None:
    encoded = [pair.ours._encode_source(text, 1) for text in TEXTS]
    targets = [pair.ours._encode_target(text, 1, text)[:9] for text in TEXTS[::-1]]
    batch = pair.ours.batch(encoded, targets)
    expected = pair.ours.model(batch.source, batch.source_mask, batch.target_in)[batch.target_mask]
    found = pair.theirs(
        input_ids=batch.source, attention_mask=batch.source_mask.long(), decoder_input_ids=batch.target_in
    ).logits[batch.target_mask]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("beams", [1, 4])
def test_output_is_the_same(pair: Pair, beams: int) -> None:
    settings = dict(beam_size=beams, beam="full", stop="exact" if beams > 1 else "first_k", max_length=20)
    found = [generation.hypotheses[0] for generation in pair.ours.generate(TEXTS, **settings)]
    rows, texts = pair.generate(TEXTS, num_beams=beams, max_new_tokens=20, early_stopping="never")
    assert [hypothesis.token_ids for hypothesis in found] == rows
    for hypothesis, text in zip(found, texts, strict=True):
        if pair.ours.target_tokenizer.unk_id not in hypothesis.token_ids:  # which transformers leaves out
            assert hypothesis.text.strip() == unicodedata.normalize("NFC", text)


def test_what_is_written_loads_here_too(pair: Pair) -> None:
    again = pellucid.load(pair.folder, "cpu")
    settings = dict(beam_size=3, stop="exact", beam="full", max_length=20)
    ids = [[h.token_ids for h in g.hypotheses] for g in again.generate(TEXTS, **settings)]
    assert ids == [[h.token_ids for h in g.hypotheses] for g in pair.ours.generate(TEXTS, **settings)]


# -- what cannot be said there


@pytest.mark.parametrize(
    ("settings", "named", "nearest"),
    [
        (dict(norm="rmsnorm"), ["model.norm: rmsnorm (it needs layernorm)"], "Pegasus"),
        (
            dict(num_kv_heads=2, activation="swiglu", positions="rotary"),
            ["num_kv_heads: 2 (it needs 4)", "cross_num_kv_heads: 2", "activation: swiglu", "positions: rotary"],
            "",
        ),
        (dict(tied_embeddings="two"), ["model.norm_placement: pre (it needs post)"], "Marian"),
        (
            dict(positions="learned", tied_embeddings="none"),
            ["model.positions: learned (it needs sinusoidal)"],
            "Marian",
        ),
        (dict(head_dim=16), ["model.head_dim: 16 (it needs hidden_size / num_heads)"], ""),
        (dict(sinusoidal_layout="fairseq", first_position=2), ["model.first_position: 2 (it needs 1)"], "M2M-100"),
        ({**T5, "scale_output": True, "norm_placement": "post"}, ["model.norm_placement: post (it needs pre)"], "T5"),
    ],
)
def test_one_error_names_all_that_no_family_can_express(
    settings: dict[str, Any], named: list[str], nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_target(ModelConfig(hidden_size=32, **settings), pad_id=0)
    assert all(part in str(caught.value) for part in [*named, nearest]), caught.value


def test_a_refusal_is_one_sentence_and_writes_nothing(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "ours", num_kv_heads=1)
    result = run("export", folder, tmp_path / "out", "--to", "hf")
    assert result.status == 2 and result.err.count("\n") == 1
    assert "model.num_kv_heads: 1 (it needs 4)" in result.err and str(folder) in result.err
    assert not (tmp_path / "out").exists()
    for arguments in (("--to", "onnx"), ("--to", "hf", "--quantization", "int8")):
        assert run("export", folder, tmp_path / "out", *arguments).status == 2
    assert "is there already" in run("export", folder, tmp_path, "--to", "hf").err


def test_two_vocabularies_of_symbols_have_no_tokenizer_there(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "ours", kind="symbols", joint=False, tied_embeddings="none", norm_placement="post")
    result = run("export", folder, tmp_path / "out", "--to", "hf")
    assert result.status == 2 and "tokenizer.joint" in result.err
    assert not (tmp_path / "out").exists()


def test_rules_for_text_are_named(tmp_path: Path, run: Run) -> None:
    from pellucid.data.text import TextRules
    from pellucid.data.tokenizer import save_tokenizers

    folder = write_folder(tmp_path / "ours")
    save_tokenizers(folder / "tokenizer", *tokenizers(), TextRules(placeholders=("url", "number")))
    result = run("export", folder, tmp_path / "out", "--to", "hf")
    assert result.status == 2 and "tokenizer.placeholders: ['url', 'number']" in result.err


# -- generation settings


def test_generation_settings_go_out_or_are_named() -> None:
    pieces = {"</s>": 3, "a": 7, "b": 8}
    written, left = generation_document(
        DecodingConfig(
            beam_size=6, n_best=2, stop="first_k", beam="full", length_penalty="power", length_alpha=0.6, max_length=50,
            min_length=4, repetition_penalty=1.2, no_repeat_ngram=3, forbidden_tokens=("a", "b"), renormalize=True,
            force_end=True, prefix_tokens=("b",), forced_score="free", diversity_groups=3,
        ),
        pieces.get, (0, 2), None,
    )  # fmt: skip
    assert left == []
    assert written == dict(
        num_beams=6, num_return_sequences=2, length_penalty=0.6, early_stopping=True, max_new_tokens=50,
        min_new_tokens=4, repetition_penalty=1.2, no_repeat_ngram_size=3, suppress_tokens=[0, 2, 7, 8],
        renormalize_logits=True, forced_eos_token_id=3, forced_bos_token_id=8, num_beam_groups=3, diversity_penalty=0.5,
    )  # fmt: skip
    written, left = generation_document(DecodingConfig(length_penalty="gnmt", prefix="x"), pieces.get, (), 40)
    assert [name.split(" = ")[0] for name in left] == ["length_penalty", "stop", "beam", "max_length_ratio", "prefix"]
    assert written == dict(num_beams=5, length_penalty=1.0, early_stopping=False, max_new_tokens=40)
    written, left = generation_document(
        DecodingConfig(sampling=True, n_best=3, top_k=9, temperature=0.5, max_length=9), pieces.get, (), None
    )
    assert written["do_sample"] and written["top_k"] == 9 and written["temperature"] == 0.5 and left == []


def test_the_stream_in_another_order_is_the_same_model() -> None:
    model = make_model(*tokenizers(), sinusoidal_layout="interleaved")
    other = rewritten(model, choose_target(model.config, 0))
    assert other.config.sinusoidal_layout == "halves"
    assert not torch.equal(other.encoder.norm.weight, model.encoder.norm.weight)  # type: ignore[union-attr]
    source, mask = torch.tensor([[5, 9, 3]]), torch.ones(1, 3, dtype=torch.bool)
    with torch.inference_mode():
        expected, found = (m(source, mask, torch.tensor([[2, 6, 7, 8]])) for m in (model, other))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_file_says_that_it_is_pytorchs_and_has_the_table_of_positions(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "ours")
    result = run("export", folder, tmp_path / "out", "--to", "hf")
    assert result.status == 0 and "wrote" in result.err and "not mapped: beam = narrowing" in result.err
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.encoder.embed_positions.weight"].shape == (1024, 32)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["decoder_start_token_id"] == 2 and generation["suppress_tokens"] == [0, 2]
