"""Marian's own files load, and compute what Marian's source and transformers' Marian compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hf_twins import transformers
from marian_twin import M, MarianNpz
from toolkit_twins import TEXTS, words_of

import pellucid
from pellucid.cli import main
from pellucid.data.batches import Batch
from pellucid.errors import ModelFolderError
from pellucid.translator import Translator

VARIANTS = {
    "opus": MarianNpz(),
    "prenorm": MarianNpz(pre=True),
    "target": MarianNpz(tied="target", files="spm"),
    "untied": MarianNpz(tied="none", files="words"),
    "legacy": MarianNpz(tied="none", legacy=True),
}


def batch_of(ours: Translator) -> tuple[list[list[int]], list[list[int]], Batch]:
    sources = [ours.source_tokenizer.encode(text) for text in TEXTS]
    targets = [ours.target_tokenizer.encode(text) for text in TEXTS[::-1]]
    return sources, targets, ours.batch(sources, targets)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_logits_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    arrays = variant.save(tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    sources, targets, batch = batch_of(ours)
    found = ours.model(batch.source, batch.source_mask, batch.target_in)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        fed = torch.tensor([*source, ours.source_tokenizer.eos_id])
        expected = variant.logits(arrays, fed, torch.tensor(target, dtype=torch.int64))
        logits = found[row, : len(target) + 1]
        assert (logits[:, :-1] - expected).abs().max() <= 1e-5 * expected.abs().max()
        # The token that Marian does not have takes no probability.
        shares = logits.log_softmax(-1)[:, :-1] - expected.log_softmax(-1)
        assert shares.abs().max() <= 1e-4
    assert ours.model.config.norm_epsilon == 1e-6  # too small to be seen in such a model


@torch.inference_mode()
def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    """With Marian's sines and epsilon, which transformers' own class replaces by slightly other ones."""
    library = transformers()
    arrays = MarianNpz().save(tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    size = ours.target_tokenizer.vocab_size
    theirs = library.MarianMTModel(
        library.MarianConfig(
            vocab_size=size, d_model=M, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="swish",
            scale_embedding=True, pad_token_id=size - 1, decoder_start_token_id=size - 1, eos_token_id=0,
            forced_eos_token_id=0, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    state = theirs.state_dict()
    names = {
        "self_Wo_ln": "self_attn_layer_norm", "context_Wo_ln": "encoder_attn_layer_norm",
        "ffn_ffn_ln": "final_layer_norm",
    }  # fmt: skip
    for name, array in arrays.items():
        if "_l" not in name or "logit" in name:
            continue
        side, layer, part = name.split("_", 2)
        base = f"model.{side}.layers.{int(layer[1:]) - 1}"
        kind = "bias" if "_b" in part else "weight"
        norm = next((theirs_ for ours_, theirs_ in names.items() if part.startswith(ours_)), None)
        step = part[-1]
        block = f"fc{step}" if "ffn" in part else "encoder_attn" if "context" in part else "self_attn"
        inner = norm or (block if "ffn" in part else f"{block}.{'out' if step == 'o' else step}_proj")
        target = state[f"{base}.{inner}.{kind}"]
        assert target.copy_(torch.from_numpy(array.T).squeeze()).shape == target.shape
    words = torch.from_numpy(np.vstack([arrays["Wemb"], np.zeros((1, M), np.float32)]))
    bias = torch.from_numpy(np.append(arrays["decoder_ff_logit_out_b"], np.float32(0))[None])
    state["model.shared.weight"].copy_(words)
    state["final_logits_bias"].copy_(bias)
    theirs.load_state_dict(state)
    table = ours.model.encoder.embedder.positions.vectors(64, 0)
    for part in (theirs.model.encoder, theirs.model.decoder):
        part.embed_positions.weight.copy_(table)
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    _, _, batch = batch_of(ours)
    expected = theirs(
        input_ids=batch.source, attention_mask=batch.source_mask.long(), decoder_input_ids=batch.target_in
    ).logits[..., :-1]
    found = ours.model(batch.source, batch.source_mask, batch.target_in)[..., :-1]
    assert (found - expected)[batch.target_mask].abs().max() <= 1e-5 * expected.abs().max()
    for place, text in enumerate(TEXTS):
        tokens = theirs.generate(
            input_ids=batch.source[place : place + 1, : int(batch.source_mask[place].sum())], max_new_tokens=12,
            num_beams=1, bad_words_ids=[[size - 1], [1]], forced_eos_token_id=None, do_sample=False,
        )[0].tolist()  # fmt: skip
        hypothesis = ours.generate([text], beam_size=1, max_length=12)[0].hypotheses[0]
        assert list(hypothesis.tokens) == ours.target_tokenizer.pieces([t for t in tokens[1:] if t != 0])


def test_convert_keeps_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    there.mkdir()
    MarianNpz().save(there)
    ours = pellucid.load(there, "cpu")
    assert main(["convert", str(there), str(tmp_path / "out")]) == 0
    converted = pellucid.load(tmp_path / "out", "cpu")
    assert converted.decoding == ours.decoding
    assert converted.generate(TEXTS) == ours.generate(TEXTS)
    capsys.readouterr()
    assert main(["info", str(there)]) == 0
    assert "checkpoint       Marian, transformer" in capsys.readouterr().out


def test_settings_are_the_decoders(tmp_path: Path) -> None:
    MarianNpz().save(tmp_path)
    decoding = pellucid.load(tmp_path, "cpu").decoding
    assert (decoding.beam_size, decoding.length_penalty, decoding.length_alpha) == (6, "power", 1.0)
    assert decoding.forbidden_tokens == ("<pad>", "<unk>")
    decoder = yaml.safe_load((tmp_path / "decoder.yml").read_text())
    (tmp_path / "decoder.yml").unlink()
    (tmp_path / "model.npz.decoder.yml").write_text(
        yaml.safe_dump(decoder | {"word-penalty": 0.2, "allow-unk": True, "normalize": 0})
    )
    ours = pellucid.load(tmp_path, "cpu")
    assert (ours.decoding.length_penalty, ours.decoding.forbidden_tokens) == ("none", ("<pad>",))
    assert ours.document["unmapped"] == ["word-penalty = 0.2"]


def test_text_becomes_the_pieces_of_the_vocabulary(tmp_path: Path) -> None:
    for name in ("opus", "spm", "words"):
        (tmp_path / name).mkdir()
        MarianNpz(files=name).save(tmp_path / name)
        tokenizer = pellucid.load(tmp_path / name, "cpu").source_tokenizer
        assert tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]
        code = tokenizer.pieces(tokenizer.encode(">>deu<< she"))[0]
        assert (code == ">>deu<<") == (name == "opus")
    assert tokenizer.encode("she")[0] == 2 + words_of(TEXTS).index("she")


def test_byte_pair_codes_beside_the_vocabulary(tmp_path: Path) -> None:
    MarianNpz(files="words").save(tmp_path)
    for side in ("source", "target"):
        (tmp_path / f"{side}.bpe").write_text("#version: 0.2\ns h\nsh e</w>\n")
    tokenizer = pellucid.load(tmp_path, "cpu").source_tokenizer
    assert tokenizer.unknown("she sh") == ["s", "h"]


# -- which file, and what is refused


def refusal(path: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        pellucid.load(path, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_which_file(tmp_path: Path) -> None:
    MarianNpz().save(tmp_path, name="opus.model1.npz.best-perplexity.npz")
    best = tmp_path / "opus.model1.npz.best-perplexity.npz"
    (tmp_path / "opus.model1.npz.optimizer.npz").write_bytes(best.read_bytes())
    assert pellucid.load(tmp_path, "cpu").generate(["she"])
    (tmp_path / "model.iter100.npz").write_bytes(best.read_bytes())
    assert pellucid.load(tmp_path, "cpu").generate(["she"])  # decoder.yml names it
    (tmp_path / "decoder.yml").unlink()
    assert f"several models (model.iter100.npz, {best.name}): give the file that is meant" in refusal(tmp_path)
    assert pellucid.load(best, "cpu").generate(["she"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "s2s"}, "type = 's2s' (supported: transformer)"),
        ({"transformer-ffn-activation": "gelu"}, "transformer-ffn-activation = 'gelu' (supported: relu, swish)"),
        ({"transformer-decoder-autoreg": "rnn"}, "transformer-decoder-autoreg = 'rnn' (supported: self-attention)"),
        ({"right-left": True}, "right-left = True"),
        ({"transformer-postprocess": "dhn"}, "transformer-postprocess = 'dhn'"),
        ({"enc-depth": 3}, "encoder_l3_self_Wq is missing"),
        ({"dec-depth": 1}, "decoder_l2_self_Wq is not part of this architecture"),
        ({"transformer-dim-ffn": 20}, "encoder_l1_ffn_W1 has shape [16, 24] where the config means [16, 20]"),
        ({"dim-emb": None}, "do not say how large the model is"),
    ],
)
def test_variants_that_are_not_supported(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    MarianNpz().save(tmp_path, **changes)
    assert said in refusal(tmp_path)


def named(folder: Path, *names: str) -> None:
    """Give the two vocabularies of a twin other names, which its decoder.yml knows."""
    decoder = yaml.safe_load((folder / "decoder.yml").read_text())
    for old, new in zip(decoder["vocabs"], names, strict=True):
        (folder / Path(old).name).rename(folder / new)
    (folder / "decoder.yml").write_text(yaml.safe_dump({**decoder, "vocabs": list(names)}))


def test_whose_a_vocabulary_is(tmp_path: Path) -> None:
    """Said by Marian's decoder.yml or its settings of training; never by the alphabet."""
    MarianNpz(tied="none", files="words").save(tmp_path)
    before = pellucid.load(tmp_path, "cpu")
    sizes = before.source_tokenizer.vocab_size, before.target_tokenizer.vocab_size
    assert sizes[0] > sizes[1]

    def found() -> tuple[int, int]:
        model = pellucid.load(tmp_path, "cpu")
        return model.source_tokenizer.vocab_size, model.target_tokenizer.vocab_size

    named(tmp_path, "vocab.en.yml", "vocab.de.yml")
    assert found() == sizes
    decoder = (tmp_path / "decoder.yml").read_text()
    (tmp_path / "decoder.yml").rename(tmp_path / "model.npz.yml")
    assert found() == sizes
    (tmp_path / "model.npz.yml").unlink()
    said = "several vocabularies (vocab.de.yml, vocab.en.yml), and nothing says which is the source's and"
    assert said in refusal(tmp_path)
    assert "put the decoder.yml that Marian has written beside model.npz" in refusal(tmp_path)
    (tmp_path / "decoder.yml").write_text(decoder)
    named(tmp_path, "vocab.source.yml", "vocab.a-target.yml")
    (tmp_path / "decoder.yml").unlink()
    assert found() == sizes
    (tmp_path / "vocab.yml").write_bytes((tmp_path / "vocab.source.yml").read_bytes())
    assert "several vocabularies (vocab.a-target.yml, vocab.source.yml, vocab.yml), and nothing" in refusal(tmp_path)


def test_several_sources_are_not_supported(tmp_path: Path) -> None:
    MarianNpz().save(tmp_path)
    decoder = yaml.safe_load((tmp_path / "decoder.yml").read_text())
    (tmp_path / "decoder.yml").write_text(yaml.safe_dump({**decoder, "vocabs": [*decoder["vocabs"][:1] * 2, "c.yml"]}))
    (tmp_path / "c.yml").write_bytes((tmp_path / "opus.src.vocab.yml").read_bytes())
    assert "3 vocabularies: models of several sources are not supported" in refusal(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    arrays = MarianNpz().save(tmp_path)
    file = tmp_path / "model.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "the file is damaged or cut short" in refusal(tmp_path)
    np.savez(file, a=np.array([object()], dtype=object), allow_pickle=True)
    assert "not arrays of numbers in NumPy's format" in refusal(tmp_path)
    with file.open("wb") as stream:
        np.save(stream, arrays["Wemb"])
    assert "not arrays of numbers in NumPy's format" in refusal(tmp_path)
    np.savez(file, **arrays)
    assert "it has no special:model.yml, and there is no model.npz.yml beside it" in refusal(tmp_path)
    np.savez(file, **arrays, **{"special:model.yml": np.frombuffer(b"- a\0", dtype=np.int8)})
    assert "its special:model.yml: not settings in YAML" in refusal(tmp_path)
    np.savez(file, **{**arrays, "Wemb": arrays["Wemb"].astype(np.int8)}, **{
        "special:model.yml": np.frombuffer(b"type: transformer\0", dtype=np.int8)
    })  # fmt: skip
    assert "Wemb: not floating-point numbers (a quantised model)" in refusal(tmp_path)


def test_settings_beside_the_model(tmp_path: Path) -> None:
    arrays = MarianNpz().save(tmp_path)
    expected = pellucid.load(tmp_path, "cpu").generate(TEXTS)
    with np.load(tmp_path / "model.npz") as archive:
        (tmp_path / "model.npz.yml").write_bytes(archive["special:model.yml"].tobytes().rstrip(b"\0"))
    np.savez(tmp_path / "model.npz", **arrays)
    assert pellucid.load(tmp_path, "cpu").generate(TEXTS) == expected


def test_vocabularies_that_do_not_fit(tmp_path: Path) -> None:
    MarianNpz().save(tmp_path)
    vocabulary = tmp_path / "opus.src.vocab.yml"
    whole = vocabulary.read_text()
    table = yaml.load(whole, yaml.BaseLoader)
    vocabulary.write_text(yaml.safe_dump({**{k: int(v) for k, v in table.items()}, "more": len(table)}))
    assert f"the source vocabulary has {len(table) + 2} entries and the model {len(table) + 1}" in refusal(tmp_path)
    vocabulary.write_text("a: 0\nb: 2\n")
    assert "its numbers are not 0, 1, 2" in refusal(tmp_path)
    vocabulary.write_text("a: 0\nb: 1\n")
    assert "</s> or <unk> is missing" in refusal(tmp_path)
    vocabulary.unlink()
    assert "opus.src.vocab.yml missing, the vocabulary of model.npz" in refusal(tmp_path)
