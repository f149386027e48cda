"""Our tokenizers as files that transformers' ``AutoTokenizer`` reads, with the same numbers for the same text.

SentencePiece models are written as they are, in the layout of Marian, whose tokenizer lets SentencePiece itself split:
every family can be given it. Lists of characters, letters and symbols become a ``tokenizer.json``. Knows nothing of
models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.data.foreign_tokenizers import JsonTokenizer, TableTokenizer
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import (
    CharacterTokenizer,
    LetterTokenizer,
    SentencePieceTokenizer,
    SymbolTokenizer,
    Tokenizer,
)
from pellucid.errors import ConfigError
from pellucid.files import write_json

__all__ = ["check_rules", "piece_list", "write_tokenizers"]

_LISTS = (CharacterTokenizer, LetterTokenizer, SymbolTokenizer)
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")


def check_rules(rules: TextRules) -> None:
    """Refuse rules for text in front of the tokenizers: no file of another program holds them.

    Raises:
        ConfigError: there are some; the message names them.
    """
    found = {name: value for name, value in rules.to_json().items() if name != "format" and value not in ("none", [])}
    if found:
        named = ", ".join(f"{'' if name == 'tags' else 'tokenizer.'}{name}: {value}" for name, value in found.items())
        raise ConfigError(
            f"other programs know no rules for text in front of the tokenizer, and this model has {named}"
        )


def piece_list(tokenizer: Tokenizer) -> list[str]:
    """The piece of every number, each once.

    Raises:
        ConfigError: an entry of the vocabulary is written like another, a special token say, so that only its number
            tells it apart.
    """
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if len(set(pieces)) < len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if piece in pieces[:number])
        raise ConfigError(
            f"the vocabulary has {twice!r} as a special token and as text; other programs cannot tell them apart"
        )
    return pieces


def write_tokenizers(folder: Path, source: Tokenizer, target: Tokenizer) -> None:
    """Write what ``AutoTokenizer`` reads.

    Args:
        folder: of the checkpoint.
        source, target: the same object where there is one vocabulary.

    Raises:
        ConfigError: a kind of tokenizer, or two of a kind, that transformers has no tokenizer for.
    """
    spm = (SentencePieceTokenizer, TableTokenizer)
    if isinstance(source, spm) and isinstance(target, spm):
        _write_marian(folder, source, target)
    elif source is not target:
        raise ConfigError(
            f"two vocabularies, of kinds {source.kind} and {target.kind}: transformers has a tokenizer for two only "
            "where both are SentencePiece's; train with one vocabulary (tokenizer.joint)"
        )
    elif isinstance(source, _LISTS):
        write_json(folder / "tokenizer.json", _list_json(source))
        _write_about(folder, "PreTrainedTokenizerFast", clean_up_tokenization_spaces=False)
    elif isinstance(source, JsonTokenizer):
        _write_json_tokenizer(folder, source)
    else:
        raise ConfigError(f"a tokenizer of kind {source.kind} cannot be written for transformers")


def _write_about(folder: Path, tokenizer_class: str, **entries: Any) -> None:
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    # What our own reader asks for: the families' own tokenizers would put more than </s> around a text.
    frame = {"text_frame": "eos"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **names, **frame, **entries})


def _write_marian(
    folder: Path,
    source: SentencePieceTokenizer | TableTokenizer,
    target: SentencePieceTokenizer | TableTokenizer,
) -> None:
    for tokenizer in (source, target):
        if tokenizer.prefix_ids or tokenizer.suffix_ids:
            around = tokenizer.pieces([*tokenizer.prefix_ids, *tokenizer.suffix_ids])
            raise ConfigError(
                f"this tokenizer puts {' '.join(around)} around each text, which Marian's layout cannot say: "
                "use the checkpoint that the model comes from"
            )
    sides = [source] if source is target else [source, target]
    tables = [{piece: number for number, piece in enumerate(piece_list(tokenizer))} for tokenizer in sides]
    (folder / "source.spm").write_bytes(source.model)
    (folder / "target.spm").write_bytes(target.model)
    one = tables[0] == tables[-1]
    write_json(folder / "vocab.json", tables[0])
    if not one:
        write_json(folder / "target_vocab.json", tables[1])
    present = {"bos_token": "<s>"} if "<s>" in tables[-1] else {"bos_token": None}
    _write_about(
        folder, "MarianTokenizer", source_lang=None, target_lang=None, separate_vocabs=not one,
        clean_up_tokenization_spaces=False, **present,
    )  # fmt: skip


def _list_json(tokenizer: CharacterTokenizer | LetterTokenizer | SymbolTokenizer) -> dict[str, Any]:
    """The content of a tokenizer.json for a list of strings."""
    pieces = piece_list(tokenizer)
    symbols = isinstance(tokenizer, SymbolTokenizer)
    pattern = {"String": " "} if symbols else {"Regex": r"[\s\S]"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, pieces[number]) for number in range(len(_SPECIAL))],
        "normalizer": {"type": "NFD"} if isinstance(tokenizer, LetterTokenizer) else None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": pattern,
            "behavior": "Removed" if symbols else "Isolated",
            "invert": False,
        },
        "post_processor": _frame((), (), "</s>", tokenizer.eos_id),
        "decoder": None if symbols else {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "unk_token": "<unk>",
        },
    }


def _added(number: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def _frame(
    prefix: Sequence[tuple[str, int]], suffix: Sequence[tuple[str, int]], eos: str, eos_id: int
) -> dict[str, Any]:
    """What stands around a text."""
    behind = [*suffix, (eos, eos_id)]
    single = [
        *({"SpecialToken": {"id": piece, "type_id": 0}} for piece, _ in prefix),
        {"Sequence": {"id": "A", "type_id": 0}},
        *({"SpecialToken": {"id": piece, "type_id": 0}} for piece, _ in behind),
    ]
    tokens = {piece: {"id": piece, "ids": [number], "tokens": [piece]} for piece, number in (*prefix, *behind)}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _write_json_tokenizer(folder: Path, tokenizer: JsonTokenizer) -> None:
    document = json.loads(tokenizer.content)

    def named(ids: Sequence[int]) -> list[tuple[str, int]]:
        return list(zip(tokenizer.pieces(ids), ids, strict=True))

    ((eos, eos_id),) = named([tokenizer.eos_id])
    document["post_processor"] = _frame(named(tokenizer.prefix_ids), named(tokenizer.suffix_ids), eos, eos_id)
    write_json(folder / "tokenizer.json", document)
    names = tokenizer.pieces([tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id])
    keys = ("pad_token", "unk_token", "bos_token", "eos_token")
    _write_about(folder, "PreTrainedTokenizerFast", **dict(zip(keys, names, strict=True)))
