"""A model that goes out writes in CTranslate2 what it writes here; what its format has no place for is named."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from export_cases import write_folder
from hf_twins import TEXTS

import pellucid
from pellucid.translator import Translator
from toys import Run

T5 = dict(norm="rmsnorm", positions="relative", bias=False, scale_embeddings=False, scale_attention=False)
# settings of the model, kind of tokenizer, one vocabulary?
CASES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "default": ({}, "sentencepiece", True),
    "post, untied": (dict(norm_placement="post", tied_embeddings="none", activation="gelu"), "sentencepiece", False),
    "learned": (dict(positions="learned", max_positions=60, embedding_norm=True, output_bias=True), "symbols", True),
    "fairseq": (dict(sinusoidal_layout="fairseq", first_position=2, activation="silu"), "sentencepiece", True),
    "no positions": (dict(positions="none", activation="gelu_tanh", bias=False), "characters", True),
    "rmsnorm, swiglu": (dict(norm="rmsnorm", activation="swiglu", norm_epsilon=1e-3), "sentencepiece", True),
    "relative": ({**T5, "scale_output": True, "head_dim": 6, "relative_buckets": 8}, "sentencepiece", True),
    "rotary": (dict(positions="rotary"), "sentencepiece", True),
    "grouped": (dict(num_kv_heads=2), "sentencepiece", True),
    "multi-query, rotary": (dict(num_kv_heads=1, positions="rotary"), "letters", True),
}


def ctranslate2() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ctranslate2", reason="what is written is read by it: pip install 'pellucid[dev]'")


def theirs(folder: Path, ours: Translator, texts: list[str], **settings: Any) -> list[list[str]]:
    """The tokens that CTranslate2 writes."""
    library = ctranslate2()
    translator = library.Translator(str(folder), device="cpu", inter_threads=1, intra_threads=1)
    pieces = [ours.source_tokenizer.pieces(ours.source_tokenizer.encode(text)) for text in texts]
    forbidden = [[piece] for piece in ours.target_tokenizer.pieces(ours.target_tokenizer.suppressed_ids)]
    results = translator.translate_batch(pieces, suppress_sequences=forbidden, return_end_token=True, **settings)
    return [result.hypotheses[0] for result in results]


@pytest.mark.parametrize("case", CASES)
def test_output_is_the_same(case: str, tmp_path: Path, run: Run) -> None:
    ctranslate2()
    settings, kind, joint = CASES[case]
    folder = write_folder(tmp_path / "ours", kind=kind, joint=joint, **settings)
    result = run("export", folder, tmp_path / "out", "--to", "ctranslate2")
    assert result.status == 0, result.err
    ours = pellucid.load(folder, "cpu")
    found = ours.generate(TEXTS, beam_size=1, beam="full", stop="first_k", max_length=16)
    expected = theirs(tmp_path / "out", ours, TEXTS, beam_size=1, max_decoding_length=16)
    assert [generation.hypotheses[0].tokens for generation in found] == expected
    # Beams of the two differ in when a search ends; what they are made of does not.
    sources = [ours.source_tokenizer.pieces(ours.source_tokenizer.encode(text)) for text in TEXTS]
    targets = [ours.target_tokenizer.pieces(ours.target_tokenizer.encode(text)) for text in TEXTS[::-1]]
    scored = (
        ctranslate2().Translator(str(tmp_path / "out"), device="cpu", intra_threads=1).score_batch(sources, targets)
    )
    for result, score in zip(scored, ours.score(TEXTS, TEXTS[::-1]), strict=True):
        assert result.log_probs == pytest.approx(score.token_logprobs, abs=2e-5)


def test_a_trained_model_writes_the_same_texts(tiny_run: Path, toy_corpus: Path, tmp_path: Path, run: Run) -> None:
    ctranslate2()
    assert run("export", tiny_run, tmp_path / "out", "--to", "ctranslate2").status == 0
    ours = pellucid.load(tiny_run, "cpu")
    texts = (toy_corpus / "dev.src").read_text().splitlines()
    for beams in (1, 4):
        settings = dict(beam_size=beams, beam="full", stop="first_k", max_length=24)
        found = [generation.hypotheses[0].tokens for generation in ours.generate(texts, **settings)]
        assert theirs(tmp_path / "out", ours, texts, beam_size=beams, max_decoding_length=24) == found
        assert " ".join(found[0][:-1]) == texts[0].upper()


@pytest.mark.parametrize("quantization", ["int8", "int16", "float16", "int8_float32"])
def test_quantised_weights_are_smaller_and_load(quantization: str, tmp_path: Path, run: Run) -> None:
    ctranslate2()
    folder = write_folder(tmp_path / "ours")
    for name, options in (("plain", ()), ("small", ("--quantization", quantization))):
        assert run("export", folder, tmp_path / name, "--to", "ctranslate2", *options).status == 0
    plain, small = ((tmp_path / name / "model.bin").stat().st_size for name in ("plain", "small"))
    assert small < 0.85 * plain
    ours = pellucid.load(folder, "cpu")
    assert all(theirs(tmp_path / "small", ours, TEXTS[:1], max_decoding_length=8))


def test_the_folder_has_the_tokenizers_and_what_belongs_around_a_source(tmp_path: Path, run: Run) -> None:
    ctranslate2()
    folder = write_folder(tmp_path / "ours", joint=False, tied_embeddings="two")
    result = run("export", folder, tmp_path / "out", "--to", "ctranslate2")
    assert "beam_size=5" in result.err and "suppress_sequences=[['<pad>'], ['<s>']]" in result.err
    for side in ("source", "target"):
        assert (tmp_path / "out" / f"{side}.spm").read_bytes() == (folder / "tokenizer" / f"{side}.model").read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["add_source_eos"] and config["decoder_start_token"] == "<s>"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(cross_num_kv_heads=2), ["model.cross_num_kv_heads: 2"]),
        (dict(norm="rmsnorm", embedding_norm=True), ["model.embedding_norm"]),
    ],
)
def test_what_the_format_cannot_express_is_one_error(
    settings: dict[str, Any], named: list[str], tmp_path: Path, run: Run
) -> None:
    ctranslate2()
    result = run("export", write_folder(tmp_path / "ours", **settings), tmp_path / "out", "--to", "ctranslate2")
    assert result.status == 2 and all(name in result.err for name in named), result.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_quantisation_is_refused(tmp_path: Path, run: Run) -> None:
    ctranslate2()
    folder = write_folder(tmp_path / "ours")
    result = run("export", folder, tmp_path / "out", "--to", "ctranslate2", "--quantization", "int4")
    assert result.status == 2 and "int8_float32" in result.err
    assert not (tmp_path / "out").exists()
