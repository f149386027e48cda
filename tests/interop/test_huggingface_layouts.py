"""The layouts that real folders have: each loads, and means what it means to transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hf_twins import (
    CORPUS,
    TEXTS,
    hf_tokenizer,
    make_twin,
    pieces_of,
    sentencepiece_model,
    transformers,
    write_about,
)
from safetensors.torch import load_file, save_file

import pellucid
from pellucid.errors import ConfigError, ModelFolderError, TokenizerError
from pellucid.interop.huggingface import vocabularies
from pellucid.interop.huggingface.languages import MBART50_LANGUAGES, MBART_LANGUAGES, NLLB_LANGUAGES

WEIGHTS = "model.safetensors"


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def written(folder: Path, **languages: Any) -> list[str]:
    return [g.hypotheses[0].text for g in pellucid.load(folder, "cpu", **languages).generate(TEXTS, max_length=8)]


def encoded(folder: Path, text: str, **languages: Any) -> list[int]:
    model = pellucid.load(folder, "cpu", **languages)
    return list(model.batch([model._encode_source(text, 1)], [[]]).source[0].tolist())


# -- languages


def test_an_ordinary_piece_is_no_language(tmp_path: Path) -> None:
    make_twin("marian", tmp_path)
    assert "deu" in "".join(CORPUS)
    numbers = json.loads((tmp_path / "vocab.json").read_text())
    change_json(tmp_path / "vocab.json", deu=5, de=6)
    assert encoded(tmp_path, "the", target_language="deu")[0] == numbers[">>deu<<"]
    with pytest.raises(ConfigError, match="no token for the language 'de'"):
        pellucid.load(tmp_path, "cpu", target_language="de")


def test_a_model_of_one_language_takes_none(tmp_path: Path) -> None:
    make_twin("marian", tmp_path)
    numbers = json.loads((tmp_path / "vocab.json").read_text())
    renamed = {"de" if piece == ">>deu<<" else piece: number for piece, number in numbers.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(renamed))
    with pytest.raises(ConfigError, match="language"):
        pellucid.load(tmp_path, "cpu", target_language="de")


@pytest.mark.parametrize(("name", "languages"), [("mbart", MBART_LANGUAGES), ("mbart50", MBART50_LANGUAGES)])
def test_mbart_is_told_from_mbart50_by_its_vocabulary(name: str, languages: tuple[str, ...], tmp_path: Path) -> None:
    make_twin(name, tmp_path)
    expected = written(tmp_path, target_language="ro_RO")
    ids = encoded(tmp_path, TEXTS[0], target_language="ro_RO")
    write_about(tmp_path, tokenizer_class="PreTrainedTokenizerFast", src_lang="en_XX")
    assert written(tmp_path, target_language="ro_RO") == expected
    code = 4 + len(pieces_of((tmp_path / "sentencepiece.bpe.model").read_bytes())) - 3 + languages.index("en_XX")
    assert ids.index(code) == (len(ids) - 1 if name == "mbart" else 0)
    (tmp_path / "sentencepiece.bpe.model").rename(tmp_path / "kept")
    tokens = json.loads(json_of(tmp_path / "kept", languages))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    assert encoded(tmp_path, TEXTS[0], target_language="ro_RO") == ids
    other = "MBart50Tokenizer" if name == "mbart" else "MBartTokenizer"
    write_about(tmp_path, tokenizer_class=other)
    with pytest.raises(ModelFolderError, match=f"says {other}, and the vocabulary has"):
        pellucid.load(tmp_path, "cpu", target_language="ro_RO")


def json_of(model: Path, languages: tuple[str, ...]) -> str:
    """A tokenizer.json of an mBART: as transformers converts one."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    processor = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    scores = [(processor.IdToPiece(n), processor.GetScore(n)) for n in range(3, processor.vocab_size())]
    head = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    marks = [*languages, "<mask>"]
    tokenizer = Tokenizer(models.Unigram([*head, *scores, *((mark, 0.0) for mark in marks)], 3, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "<pad>", "</s>", "<unk>", *marks)])
    return str(tokenizer.to_str())


def test_nllb_with_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    make_twin("nllb", tmp_path)
    model = sentencepiece_model(model_type="bpe")
    pieces = pieces_of(model)
    rows = -(-(len(pieces) + 1 + 202 + 1) // 8) * 8
    theirs = transformers().M2M100ForConditionalGeneration.from_pretrained(tmp_path)
    theirs.resize_token_embeddings(rows)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    write_about(tmp_path, tokenizer_class="NllbTokenizer")
    ids = encoded(tmp_path, "the old man <mask> reads", target_language="zul_Latn")
    first = 1 + len(pieces)
    assert ids[0] == first + NLLB_LANGUAGES.index("eng_Latn")
    assert ids[-1] == 2
    assert first + 202 in ids
    found = pellucid.load(tmp_path, "cpu", target_language="zul_Latn")
    assert found.target_tokenizer.prefix_ids == (first + 201,)
    assert found.source_tokenizer.pieces(ids[1:3]) == transformers().NllbTokenizer.from_pretrained(tmp_path).tokenize(
        "the old man"
    )[:2]  # fmt: skip


# -- special tokens in a text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t5", "the <extra_id_0> dog<extra_id_9> reads"),
        ("t5", "the</s>dog <pad> reads"),
        ("pegasus", "the<mask_1> dog<mask_2> reads<unk_5>"),
        ("mbart50", "the <mask> dog"),
        ("m2m100", "the __de__ dog</s>"),
        ("marian", ">>deu<< the</s> dog <pad>"),
    ],
)
def test_special_tokens_in_a_text_are_what_they_are_in_transformers(name: str, text: str, tmp_path: Path) -> None:
    make_twin(name, tmp_path)
    languages = {"target_language": {"mbart50": "pl_PL", "m2m100": "de"}[name]} if name in ("mbart50", "m2m100") else {}
    assert encoded(tmp_path, text, **languages) == hf_tokenizer(name, tmp_path)(text).input_ids


def test_added_tokens_are_cut_out_with_their_spaces(tmp_path: Path) -> None:
    make_twin("t5", tmp_path)
    numbers = {"<new>": 60, "<other>": 61}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 60}))
    about = {"content": "<other>", "special": False, "lstrip": True, "rstrip": True, "normalized": False}
    change_json(tmp_path / "tokenizer_config.json", added_tokens_decoder={"61": about})
    model = pellucid.load(tmp_path, "cpu")
    tokenizer = model.source_tokenizer
    ids = tokenizer.encode("the<new> dog <other> reads")
    assert [ids.count(number) for number in numbers.values()] == [1, 1]
    assert tokenizer.decode(ids) == "the<new> dog<other> reads"
    assert "".join("the<new> dog <other> reads"[a:b] for a, b in tokenizer.spans("the<new> dog <other> reads")).count(
        "<"
    ) == 2  # fmt: skip


# -- sizes


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False), (200, False), (1000, False)])
def test_rows_without_a_token_only_round_up(spare: int, fits: bool, tmp_path: Path) -> None:
    tokens = vocabularies.Vocabulary({f"p{n}": n for n in range(1001)}, {}, frozenset(), lambda specials: None)  # type: ignore[arg-type, return-value]
    if fits:
        vocabularies._check_fit(tmp_path, "source", tokens, 1001 + spare, 0)
        vocabularies._check_fit(tmp_path, "source", tokens, 1024, 0)
        vocabularies._check_fit(tmp_path, "source", tokens, 1009, 8)
    else:
        with pytest.raises(ModelFolderError, match="1001 tokens and the model"):
            vocabularies._check_fit(tmp_path, "source", tokens, 1001 + spare, 0)


@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_a_mask_without_a_row(layout: str, tmp_path: Path) -> None:
    make_twin("bart", tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    size = len(content["model"]["vocab"])
    mask = {**content["added_tokens"][-1], "id": size, "content": "<mask>"}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<mask>"] + [mask]
    vocab = {("<was mask>" if piece == "<mask>" else piece): n for piece, n in content["model"]["vocab"].items()}
    content["model"]["vocab"] = {**vocab, "<mask>": size}
    if layout == "tokenizer.json":
        (tmp_path / layout).write_text(json.dumps(content))
    else:
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / layout).write_text(json.dumps(content["model"]["vocab"]))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    model = pellucid.load(tmp_path, "cpu")
    assert model.source_tokenizer.vocab_size == size
    assert model.generate(TEXTS[:1])
    with pytest.raises(TokenizerError, match="the text holds <mask>, a special token for which the model has no vec"):
        model.generate(["the <mask> dog"])


# -- weights


@pytest.mark.parametrize("name", ["bart", "marian", "pegasus"])
def test_weights_of_a_bare_model_are_read(name: str, tmp_path: Path) -> None:
    theirs = make_twin(name, tmp_path)
    change_tensors(tmp_path, lambda tensors: {**tensors, "final_logits_bias": torch.zeros(1, theirs.config.vocab_size)})
    expected = written(tmp_path)
    change_tensors(
        tmp_path,
        lambda tensors: {n.removeprefix("model."): t for n, t in tensors.items() if n != "final_logits_bias"},
    )
    assert "shared.weight" in load_file(tmp_path / WEIGHTS)
    assert written(tmp_path) == expected


def test_many_problems_are_counted(tmp_path: Path) -> None:
    make_twin("bart", tmp_path)
    change_tensors(tmp_path, lambda tensors: {f"x.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(ModelFolderError, match=r"; and \d+ more$") as caught:
        pellucid.load(tmp_path, "cpu")
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    make_twin("t5", tmp_path)
    change_tensors(tmp_path, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    model = pellucid.load(tmp_path, "cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(
        model.encoder.embedder.embedding.weight, load_file(tmp_path / WEIGHTS)["shared.weight"].to(torch.float32)
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says what is mapped")
def test_float32_weights_stay_mapped_and_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_twin("t5", tmp_path)
    state = torch.get_rng_state()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("numbers are drawn")

    monkeypatch.setattr(torch.nn.init, "xavier_uniform_", lambda tensor: tensor if tensor.is_meta else refuse())
    model = pellucid.load(tmp_path, "cpu").model
    assert torch.equal(state, torch.get_rng_state())
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in ranges), name


# -- tokenizers that are not supported


@pytest.mark.parametrize(
    ("name", "kind"), [("t5", "UdopTokenizer"), ("mbart", "AlbertTokenizer"), ("bart", "BartphoTokenizer")]
)
def test_an_unknown_class_of_tokenizer_is_named(name: str, kind: str, tmp_path: Path) -> None:
    make_twin(name, tmp_path)
    write_about(tmp_path, tokenizer_class=kind)
    with pytest.raises(ModelFolderError, match=f"its tokenizer is a {kind}, which is not supported; supported: Marian"):
        pellucid.load(tmp_path, "cpu")


def test_settings_of_the_wrong_type_are_named(tmp_path: Path) -> None:
    make_twin("t5", tmp_path)
    change_json(tmp_path / "config.json", feed_forward_proj=3)
    with pytest.raises(ModelFolderError, match="feed_forward_proj must be text, not 3"):
        pellucid.load(tmp_path, "cpu")


def test_settings_of_generation_have_one_place(tmp_path: Path) -> None:
    make_twin("m2m100", tmp_path)
    change_json(tmp_path / "config.json", forced_bos_token_id=70)  # which generation_config.json does not say
    with pytest.raises(ConfigError, match="writes many languages"):
        pellucid.load(tmp_path, "cpu").generate(TEXTS)
    change_json(tmp_path / "generation_config.json", forced_bos_token_id=71, eos_token_id=[2, 5])
    model = pellucid.load(tmp_path, "cpu")
    assert model.target_tokenizer.prefix_ids == (71,)
    assert "eos_token_id = [2, 5] (only the first ends a text here)" in model.document["unmapped"]


def test_barthez_with_its_sentencepiece_file_alone(tmp_path: Path) -> None:
    """Its pieces keep their own numbers, and the last of them is <mask>."""
    make_twin("barthez", tmp_path)
    model = sentencepiece_model(bos_id=0, pad_id=1, eos_id=2, unk_id=3)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    size = len(pieces_of(model))
    for name in ("config.json",):
        config = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(config | {"vocab_size": size}))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {n: t[:size] if n == "model.shared.weight" else t for n, t in tensors.items()}
    tensors = {n: t[:, :size].contiguous() if n == "final_logits_bias" else t for n, t in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    tokenizer = pellucid.load(tmp_path, "cpu").source_tokenizer
    assert tokenizer.pieces(range(4)) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.encode("the old <mask>")[-1] == size - 1
    assert tokenizer.encode(TEXTS[0]) == sentencepiece.SentencePieceProcessor(model_proto=model).Encode(TEXTS[0])
    assert tokenizer.prefix_ids == (0,)


def test_bytes_as_tokens(tmp_path: Path) -> None:
    make_twin("byt5", tmp_path)
    tokenizer = pellucid.load(tmp_path, "cpu").source_tokenizer
    text = "a é 狗<extra_id_3>."
    ids = tokenizer.encode(text)
    assert ids == [*(byte + 3 for byte in "a é 狗".encode()), 262, ord(".") + 3]
    assert [text[a:b] for a, b in tokenizer.spans(text)] == ["a", " ", "é", "", " ", "狗", "", "", "<extra_id_3>", "."]
    assert tokenizer.pieces(ids[:5]) == ["a", "▁", "<0xC3>", "<0xA9>", "▁"]
    found, spans = tokenizer.decode_spans(ids)
    assert found == tokenizer.decode(ids) == "a é 狗."
    assert [found[a:b] for a, b in spans] == ["a", " ", "", "é", " ", "", "", "狗", "", "."]
    assert tokenizer.decode(ids[:3]) == "a "  # half a character
    assert tokenizer.unknown("a<unk>") == ["<unk>"]
