"""fairseq, OpenNMT-py, JoeyNMT: their files load, and compute what these programs' published code computes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toolkit_twins import TEXTS, Fairseq, Joey, OpenNMT, words_of

import pellucid
from pellucid.cli import main
from pellucid.errors import ConfigError, ModelFolderError
from pellucid.interop.pickled import Inert, read_pickled, settings_of

VARIANTS: dict[str, Any] = {
    "fairseq": Fairseq(),
    "fairseq-pre": Fairseq(pre=True, share="decoder", hydra=True),
    "fairseq-shared": Fairseq(share="all", learned=True, embedding_norm=True, activation="gelu"),
    "fairseq-2018": Fairseq(pre=True, share="decoder", old=True),
    "joey": Joey(),
    "joey-pre": Joey("pre", tied=True),
    "joey-1": Joey(None, scale=False),
    "onmt-3": OpenNMT(),
    "onmt-3-gated": OpenNMT(gated=True, biased=False, shared=True),
    "onmt-2": OpenNMT(version=2),
    "onmt-1": OpenNMT(version=1),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_logits_are_those_of_the_published_code(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    tensors = variant.save(tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    # Too small a number to be seen in the logits of such a model.
    assert ours.model.config.norm_epsilon == (None if name.startswith("fairseq") else 1e-6)
    sources = [ours._encode_source(text, 1) for text in TEXTS]
    targets = [ours.target_tokenizer.encode(text) for text in TEXTS[::-1]]
    batch = ours.batch(sources, targets)
    found = ours.model(batch.source, batch.source_mask, batch.target_in)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        fed = source if name.startswith("onmt") else [*source, ours.source_tokenizer.eos_id]
        first = 2  # </s> in fairseq, <s> in the others
        expected = variant.logits(tensors, torch.tensor(fed), torch.tensor([first, *target]))
        assert (found[row, : len(target) + 1] - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", VARIANTS)
def test_what_convert_writes_does_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    there.mkdir()
    VARIANTS[name].save(there)
    ours = pellucid.load(there, "cpu")
    assert main(["convert", str(there), str(tmp_path / "out")]) == 0
    converted = pellucid.load(tmp_path / "out", "cpu")
    assert converted.decoding == ours.decoding
    assert converted.generate(TEXTS) == ours.generate(TEXTS)
    assert converted.score(TEXTS, TEXTS[::-1]) == ours.score(TEXTS, TEXTS[::-1])
    capsys.readouterr()
    for folder in (there, tmp_path / "out"):
        assert main(["info", str(folder)]) == 0
        program = {"fairseq": "fairseq", "joey": "JoeyNMT", "onmt": "OpenNMT-py"}[name.split("-")[0]]
        assert f"checkpoint       {program}, transformer" in capsys.readouterr().out


def test_words_become_the_numbers_of_the_dictionary(tmp_path: Path) -> None:
    Fairseq().save(tmp_path)
    tokenizer = pellucid.load(tmp_path, "cpu").source_tokenizer
    words = words_of(TEXTS)
    assert tokenizer.encode("the  garden über") == [4 + words.index("the"), 4 + words.index("garden"), 3]
    assert tokenizer.unknown("the  garden über") == ["über"]
    assert tokenizer.decode([0, 4 + words.index("the"), 3, 4 + words.index("man"), 2, 1]) == "the man"


def test_a_dictionary_of_sentencepiece_pieces_wants_its_model(tmp_path: Path) -> None:
    Fairseq().save(tmp_path, sentencepiece_text=True)
    ours = pellucid.load(tmp_path, "cpu")
    assert ours.source_tokenizer.decode(ours.source_tokenizer.encode(TEXTS[1])) == TEXTS[1]
    (tmp_path / "spm.en.model").unlink()
    (tmp_path / "spm.de.model").unlink()
    assert refusal(tmp_path) == (
        f"{tmp_path}: the file of the SentencePiece model (*.model) is missing; put it beside checkpoint_best.pt"
    )


def test_search_settings_are_the_programs(tmp_path: Path) -> None:
    Joey().save(tmp_path)
    decoding = pellucid.load(tmp_path, "cpu").decoding
    assert (decoding.beam_size, decoding.length_penalty, decoding.length_alpha, decoding.max_length) == (
        4, "gnmt", 1.0, 12,
    )  # fmt: skip


# -- nothing is run


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_zip: bool) -> None:
    monkeypatch.chdir(tmp_path)
    Fairseq().save(tmp_path)
    file = tmp_path / "checkpoint_best.pt"
    content = torch.load(file, weights_only=False)
    content["optimizer"] = Payload()
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    found = read_pickled(file)
    assert isinstance(found["optimizer"], Inert)
    assert len(found["optimizer"].arguments) == 1
    assert settings_of(found["args"])["source_lang"] == "en"
    pellucid.load(tmp_path, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_program_is_not_handed_to_torch(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    assert "a TorchScript program, not a checkpoint" in refusal(tmp_path)


# -- bad input


def refusal(path: Path, **languages: str) -> str:
    with pytest.raises((ModelFolderError, ConfigError)) as caught:
        pellucid.load(path, "cpu", **languages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "fconv_iwslt_de_en"}, "fairseq models of architecture 'fconv_iwslt_de_en' are not supported"),
        ({"arch": "transformer_lm"}, "architecture 'transformer_lm' are not supported"),
        ({"adaptive_input": True}, "a variant that is not supported: adaptive_input = True"),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads (4) and decoder_attention_heads (2) differ"),
        ({"encoder_attention_heads": 3, "decoder_attention_heads": 3}, "hidden_size (16) must be a multiple of"),
        ({"encoder_layers": 3}, "encoder.layers.2.self_attn.q_proj.weight is missing"),
        ({"encoder_layers": 1}, "encoder.layers.1.fc1.weight is not part of this architecture"),
    ],
)
def test_fairseq_that_is_not_supported(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    Fairseq().save(tmp_path, **changes)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_type": "transformer_lm"}, "decoder_type = 'transformer_lm' (supported: transformer)"),
        ({"max_relative_positions": 20}, "max_relative_positions = 20 (supported: 0)"),
        ({"copy_attn": True}, "copy_attn = True"),
        ({"transforms": ["sentencepiece"], "src_subword_model": "/x/s.model"}, "s.model: the file of the Sentence"),
    ],
)
def test_opennmt_that_is_not_supported(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    OpenNMT().save(tmp_path, **changes)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "recurrent"}, "type = 'recurrent' (supported: transformer)"),
        ({"alpha": 0.8}, "alpha = 0.8 (supported: 1.0)"),
        ({"ff_size": 20}, "has shape [24, 16] where the config means [20, 16]"),
    ],
)
def test_joey_that_is_not_supported(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    Joey().save(tmp_path, **changes)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("variant", "file", "said"),
    [
        (Fairseq(), "dict.de.txt", "dict.de.txt: the target dictionary is missing; put it beside checkpoint_best.pt"),
        (Joey(), "src_vocab.txt", "src_vocab.txt: the vocabulary is missing; put it beside best.ckpt"),
        (Joey(), "config.yaml", "config.yaml: the file of settings is missing"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, variant: Any, file: str, said: str) -> None:
    variant.save(tmp_path)
    (tmp_path / file).unlink()
    assert said in refusal(tmp_path)


def test_vocabularies_that_do_not_fit(tmp_path: Path) -> None:
    Fairseq().save(tmp_path)
    size = len(words_of(TEXTS)) + 4
    with (tmp_path / "dict.en.txt").open("a") as file:
        file.write("more 1\n")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'checkpoint_best.pt'}: the source vocabulary has {size + 1} entries and the model {size}: "
        "they are not of the same training run"
    )
    (tmp_path / "dict.en.txt").write_text("the 3\nwithout-a-count\n")
    assert "dict.en.txt, line 2: expected a symbol and its count" in refusal(tmp_path)


def test_which_checkpoint(tmp_path: Path) -> None:
    OpenNMT().save(tmp_path)
    (tmp_path / "model_step_200.pt").write_bytes((tmp_path / "model_step_100.pt").read_bytes())
    assert "several checkpoints (model_step_100.pt, model_step_200.pt): give the file that is meant" in refusal(
        tmp_path
    )
    assert pellucid.load(tmp_path / "model_step_200.pt", "cpu").generate(["she"])
    assert "leave source and target language away" in refusal(tmp_path / "model_step_200.pt", source_language="en")


def test_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2)}, file)
    assert "not a checkpoint of fairseq, OpenNMT-py or JoeyNMT (it holds weight)" in refusal(file)
    torch.save([1], file)
    assert "a checkpoint is a dict of named parts; this is a list" in refusal(file)
    Fairseq().save(tmp_path)
    file = tmp_path / "checkpoint_best.pt"
    file.write_bytes(file.read_bytes()[:5000])
    assert "the file is damaged or cut short" in refusal(tmp_path)


def test_characters_and_settings_that_change_text_are_said(tmp_path: Path) -> None:
    Joey().save(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["data"]["src"] |= {"level": "char", "lowercase": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    ours = pellucid.load(tmp_path, "cpu")
    assert ours.document["unmapped"] == ["data.src.lowercase = True (text goes to the tokenizer as it is)"]
    assert len(ours.source_tokenizer.encode("a b")) == 3
