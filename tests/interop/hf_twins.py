"""Tiny random checkpoints in the layout of each Hugging Face family, made by transformers itself.

A twin is a folder with weights, configs and the files of a tokenizer learned from a few sentences. What the tests
compare with is transformers: its model, its tokenizer, its ``generate``.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from pellucid.interop.huggingface.languages import M2M100_LANGUAGES

__all__ = ["LANGUAGES", "TEXTS", "TWINS", "Twin", "hf_tokenizer", "make_bert", "make_twin", "source_ids"]

TEXTS = [
    "the old man reads a book in the garden",
    "two dogs run over the green field",
    "she",
    "a child in a red coat plays with the dogs near the house and sings",
    "the garden of the old house is green",
]
CORPUS = [
    *TEXTS,
    *["en de fr deu"] * 9,
    *(f"{a} {b} {c}" for a in ("the dog", "a man", "she") for b in ("sees", "reads") for c in TEXTS),
]


@dataclass(frozen=True)
class Twin:
    """One family.

    Attributes:
        model, config, tokenizer: names of classes of transformers; ``tokenizer`` reads the folder.
        settings: of the config.
        write: writes the tokenizer's files; returns the size of the vocabulary.
        languages: source and target for ``load``.
        generation: settings of generate that belong to the family.
    """

    model: str
    config: str
    tokenizer: str
    settings: Mapping[str, Any]
    write: Callable[[Path], int]
    languages: tuple[str, str] | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)


def transformers() -> Any:
    """The library; the test is skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers", reason="parity is with transformers: pip install 'pellucid[dev]'")
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
        return library


def sentencepiece_model(texts: Sequence[str] = CORPUS, **settings: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=60, hard_vocab_limit=False, num_threads=1,
        minloglevel=2, **settings,
    )  # fmt: skip
    return model.getvalue()


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.IdToPiece(number) for number in range(processor.vocab_size())]


def write_about(folder: Path, **about: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


# -- the tokenizers' files


def write_marian(folder: Path) -> int:
    models = [sentencepiece_model(CORPUS[:20]), sentencepiece_model(CORPUS[8:])]
    for name, model in zip(("source.spm", "target.spm"), models, strict=True):
        (folder / name).write_bytes(model)
    pieces = sorted({piece for model in models for piece in pieces_of(model)} - {"<s>", "</s>", "<unk>"})
    # One piece is left out: a text may hold what the table does not number.
    pieces = ["</s>", "<unk>", *(piece for piece in pieces if piece != "▁she"), ">>deu<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    write_about(folder, tokenizer_class="MarianTokenizer", source_lang="en", target_lang="de")
    return len(pieces)


def write_bart(folder: Path) -> int:
    from tokenizers import ByteLevelBPETokenizer, processors

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CORPUS, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_about(folder, tokenizer_class="BartTokenizer")
    return int(tokenizer.get_vocab_size())


def write_mbart(folder: Path) -> int:
    return _write_mbart(folder, "MBartTokenizer", 25)


def write_mbart50(folder: Path) -> int:
    return _write_mbart(folder, "MBart50Tokenizer", 52)


def _write_mbart(folder: Path, name: str, languages: int) -> int:
    model = sentencepiece_model()
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    write_about(folder, tokenizer_class=name, src_lang="en_XX")
    return len(pieces_of(model)) + 1 + languages + 1


def write_m2m100(folder: Path) -> int:
    model = sentencepiece_model()
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(model)[3:]]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    write_about(
        folder, tokenizer_class="M2M100Tokenizer", additional_special_tokens=[f"__{c}__" for c in M2M100_LANGUAGES]
    )
    return len(pieces) + 100 + 8


def write_nllb(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = ["<s>", "<pad>", "</s>", "<unk>", "deu_Latn", "eng_Latn", "fra_Latn"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_about(folder, tokenizer_class="PreTrainedTokenizerFast", unk_token="<unk>", eos_token="</s>")
    return int(tokenizer.get_vocab_size())


def write_pegasus(folder: Path) -> int:
    model = sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(model)
    write_about(folder, tokenizer_class="PegasusTokenizer")
    return len(pieces_of(model)) + 103


def write_t5(folder: Path) -> int:
    model = sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(model)
    write_about(folder, tokenizer_class="T5Tokenizer", extra_ids=10)
    return -(-(len(pieces_of(model)) + 10) // 128) * 128  # rows that no token has, as in the real ones


def write_byt5(folder: Path) -> int:
    write_about(folder, tokenizer_class="ByT5Tokenizer", extra_ids=125)
    return 384


def write_barthez(folder: Path) -> int:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = pieces_of(sentencepiece_model())[3:]
    table = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(n)) for n, piece in enumerate(table)], 3, False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    marks = ("<s>", "<pad>", "</s>", "<unk>")
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    tokenizer.post_processor = _around("<s>", "</s>")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_about(folder, tokenizer_class="BarthezTokenizer", unk_token="<unk>", eos_token="</s>")
    return len(table)


def _around(first: str, last: str) -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(f"{first} $A {last}", special_tokens=[(first, 0), (last, 2)])


BART_SIZES = dict(
    d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.25,
    pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
)  # fmt: skip
MARIAN_IDS = dict(eos_token_id=0, bos_token_id=None)
T5_SIZES = dict(
    d_model=32, d_kv=12, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=4, initializer_factor=1.0,
    relative_attention_num_buckets=8, relative_attention_max_distance=10,
    pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
)  # fmt: skip
PEGASUS_IDS = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
LANGUAGES = {
    "mbart": ("en_XX", "ro_RO"),
    "mbart50": ("en_XX", "pl_PL"),
    "m2m100": ("en", "de"),
    "nllb": ("eng_Latn", "fra_Latn"),
}

TWINS = {
    "marian": Twin(
        "MarianMTModel", "MarianConfig", "MarianTokenizer",
        {**BART_SIZES, **MARIAN_IDS, "scale_embedding": True, "activation_function": "swish"}, write_marian,
        generation={"forced_eos_token_id": 0},
    ),
    "bart": Twin(
        "BartForConditionalGeneration", "BartConfig", "BartTokenizer", BART_SIZES, write_bart,
        generation={"forced_bos_token_id": 0, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "min_length": 5},
    ),
    "mbart": Twin(
        "MBartForConditionalGeneration", "MBartConfig", "MBartTokenizer", {**BART_SIZES, "scale_embedding": True},
        write_mbart, LANGUAGES["mbart"],
    ),
    "mbart50": Twin(
        "MBartForConditionalGeneration", "MBartConfig", "MBart50Tokenizer", {**BART_SIZES, "scale_embedding": True},
        write_mbart50, LANGUAGES["mbart50"],
    ),
    "barthez": Twin(
        "MBartForConditionalGeneration", "MBartConfig", "PreTrainedTokenizerFast",
        {**BART_SIZES, "scale_embedding": True}, write_barthez,
    ),
    "m2m100": Twin(
        "M2M100ForConditionalGeneration", "M2M100Config", "M2M100Tokenizer", BART_SIZES, write_m2m100,
        LANGUAGES["m2m100"],
    ),
    "nllb": Twin(
        "M2M100ForConditionalGeneration", "M2M100Config", "PreTrainedTokenizerFast", BART_SIZES, write_nllb,
        LANGUAGES["nllb"],
    ),
    "pegasus": Twin(
        "PegasusForConditionalGeneration", "PegasusConfig", "PegasusTokenizer",
        {**BART_SIZES, **PEGASUS_IDS, "scale_embedding": True}, write_pegasus, generation={"min_new_tokens": 3},
    ),
    "t5": Twin("T5ForConditionalGeneration", "T5Config", "T5Tokenizer", T5_SIZES, write_t5),
    "t5-gated": Twin(
        "T5ForConditionalGeneration", "T5Config", "T5Tokenizer",
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, write_t5,
    ),
    "byt5": Twin("T5ForConditionalGeneration", "T5Config", "ByT5Tokenizer", T5_SIZES, write_byt5),
    "mt5": Twin("MT5ForConditionalGeneration", "MT5Config", "T5Tokenizer", T5_SIZES, write_t5),
}  # fmt: skip
UNTIED = ("t5-gated", "mt5")


def make_twin(name: str, folder: Path, **settings: Any) -> Any:
    """Write a twin into ``folder`` and give transformers' model of it."""
    library, twin = transformers(), TWINS[name]
    size = twin.write(folder)
    values = {**twin.settings, "vocab_size": size, **settings}
    if name == "marian":
        values |= {"pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    torch.manual_seed(len(name))
    model = getattr(library, twin.model)(getattr(library, twin.config)(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # no norm and no bias keeps a special value: a forgotten one would show
                parameter.add_(0.2 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
        if name in UNTIED:
            model.lm_head.weight = torch.nn.Parameter(0.5 * torch.randn_like(model.lm_head.weight))
    for setting, value in {"max_length": 16, **twin.generation}.items():
        setattr(model.generation_config, setting, value)
    if name == "marian":
        model.generation_config.bad_words_ids = [[size - 1]]
    model.save_pretrained(folder)
    return model


def make_bert(folder: Path, name: str = "BertModel", **settings: Any) -> Any:
    """Write a BERT without a tokenizer into ``folder`` and give transformers' model of it."""
    library = transformers()
    sizes = dict(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=20, type_vocab_size=3, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(7)
    model = getattr(library, name)(library.BertConfig(**{**sizes, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def hf_tokenizer(name: str, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers recommends a package here and there
        tokenizer = getattr(transformers(), TWINS[name].tokenizer).from_pretrained(folder)
    if languages := TWINS[name].languages:
        tokenizer.src_lang, tokenizer.tgt_lang = languages
    return tokenizer


def source_ids(name: str, tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer(text).input_ids)
    if name == "nllb":  # the generic class does not know where NLLB puts the code
        ids = [tokenizer.convert_tokens_to_ids(LANGUAGES["nllb"][0]), *ids, tokenizer.eos_token_id]
    return ids
