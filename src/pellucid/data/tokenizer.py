"""Tokenizers for both sides: learned from text, saved in a folder, read back, and measured for what they do not know.

Knows nothing of batches; what each kind does is in ``tokenizer_kinds.py``. A saved folder holds ``tokenizer.json`` (the
kind of each side, its SHA-256, and the vocabulary of characters, letters and symbols; the rules for text, where there
are any) and the SentencePiece models beside it: ``source.model`` and ``target.model``, or ``shared.model`` for a joint
vocabulary.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from pellucid.config import TokenizerConfig
from pellucid.data.byte_tokenizer import ByteTokenizer
from pellucid.data.foreign_tokenizers import Atom, JsonTokenizer, Specials, TableTokenizer
from pellucid.data.text import TextRules, markers
from pellucid.data.tokenizer_kinds import (
    BOS,
    EOS,
    PAD,
    UNK,
    CharacterTokenizer,
    LetterTokenizer,
    SentencePieceTokenizer,
    SymbolTokenizer,
    Tokenizer,
)
from pellucid.data.word_tokenizer import WordTokenizer
from pellucid.errors import TokenizerError
from pellucid.files import atomic_file, write_json, write_text

__all__ = [
    "TOKENIZER_FILE",
    "Tokenizer",
    "UnknownShare",
    "load_rules",
    "load_tokenizers",
    "save_tokenizers",
    "train_tokenizer",
    "train_tokenizers",
    "unknown_share",
]

TOKENIZER_FILE = "tokenizer.json"
LIST_KINDS: dict[str, type[CharacterTokenizer | LetterTokenizer | SymbolTokenizer]] = {
    kind.kind: kind for kind in (CharacterTokenizer, LetterTokenizer, SymbolTokenizer)
}
_FORMAT, _FORMAT_WITH_RULES = 1, 2  # what knows only the first must not read text past the rules of the second
_LONGEST_LINE = 1 << 16  # bytes; longer lines do not take part in learning a vocabulary


def train_tokenizers(
    config: TokenizerConfig, pairs: Iterable[tuple[str, str]], tags: Sequence[str] = ()
) -> tuple[Tokenizer, Tokenizer]:
    """Learn the vocabularies of both sides from (source, target) texts.

    The result depends on the texts and the config alone, not on threads or the machine's load.

    Args:
        config: kinds, sizes, whether the vocabulary is joint.
        pairs: is iterated twice where there are two vocabularies; an iterator is therefore read into memory.
        tags: pieces that the source side has besides, which no text is ever split into.

    Returns:
        (source, target): the same object if the vocabulary is joint.

    Raises:
        TokenizerError: no text, or more different characters than the vocabulary has room for.
    """
    if iter(pairs) is pairs:
        pairs = list(pairs)
    if config.is_joint:
        joint = train_tokenizer(config, config.kind, (text for pair in pairs for text in pair), "the text", tags)
        return joint, joint
    source = train_tokenizer(config, config.kind, (pair[0] for pair in pairs), "the source side", tags)
    target = train_tokenizer(config, config.target_kind or config.kind, (pair[1] for pair in pairs), "the target side")
    return source, target


def train_tokenizer(
    config: TokenizerConfig, kind: str, texts: Iterable[str], where: str = "the text", tags: Sequence[str] = ()
) -> Tokenizer:
    """Learn one vocabulary of the given kind, with ``tags`` besides; ``where`` names the text in errors."""
    if kind == "sentencepiece":
        return _train_sentencepiece(config, texts, where, tags)
    cls = LIST_KINDS[kind]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(cls.split(text))
    if not counts:
        raise TokenizerError(f"{where} to learn a vocabulary from is empty")
    entries = sorted(counts, key=lambda entry: (-counts[entry], entry))
    if kind in ("characters", "letters"):
        entries = _covered(entries, counts, config.character_coverage)
    if both := [tag for tag in tags if tag in counts]:
        raise TokenizerError(f"the tag {both[0]} is a symbol of {where}, too: choose another tag")
    return cls([*tags, *entries])


def _covered(entries: list[str], counts: Counter[str], coverage: float) -> list[str]:
    """The shortest beginning of ``entries`` whose counts add up to the share ``coverage`` of all."""
    needed, covered = coverage * counts.total(), 0
    for number, entry in enumerate(entries, start=1):
        covered += counts[entry]
        if covered >= needed:
            return entries[:number]
    return entries


def _train_sentencepiece(
    config: TokenizerConfig, texts: Iterable[str], where: str, tags: Sequence[str] = ()
) -> SentencePieceTokenizer:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_nonempty(texts),
            model_writer=model,
            model_type=config.model,
            vocab_size=config.vocab_size,
            # With fewer pieces in the text than vocab_size, take what there is.
            hard_vocab_limit=False,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            normalization_rule_name=config.normalization,
            remove_extra_whitespaces=config.normalization != "identity",
            user_defined_symbols=markers(config.placeholders),
            control_symbols=list(tags),  # numbered, but never found in a text: what someone writes is no tag
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            max_sentence_length=_LONGEST_LINE,
            # Sums are split by thread, so their rounding, and in the end the pieces, depend on this number.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(_explain(str(error), config, where)) from None
    return SentencePieceTokenizer(model.getvalue())


def _explain(message: str, config: TokenizerConfig, where: str) -> str:
    if "sentences_.empty()" in message or "all_chars_count" in message:  # the latter: nothing left by normalisation
        return f"{where} to learn a vocabulary from is empty"
    if room := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message):
        bytes_too = "and the 256 bytes of tokenizer.byte_fallback " if config.byte_fallback else ""
        return (
            f"tokenizer.vocab_size ({config.vocab_size}) is too small: the characters of {where} {bytes_too}alone need "
            f"{int(room[2]):,} pieces; raise it, or lower tokenizer.character_coverage"
        )
    detail = re.sub(r"^\w+: \S+ (\[.*?\] )?", "", message).strip().rstrip(".")
    return f"SentencePiece cannot learn a vocabulary of {config.vocab_size} from {where}: {detail or 'no reason given'}"


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    return (text for text in texts if text and not text.isspace())


@dataclass(frozen=True, slots=True)
class UnknownShare:
    """How much of some texts a vocabulary does not know.

    Attributes:
        unknown, total: tokens.
        examples: the most frequent unknown parts, at most ten.
    """

    unknown: int
    total: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """Unknown tokens / all tokens; 0 for no text."""
        return self.unknown / self.total if self.total else 0.0


def unknown_share(tokenizer: Tokenizer, texts: Iterable[str]) -> UnknownShare:
    """Count the unknown tokens of ``texts``."""
    unknown = total = 0
    examples: Counter[str] = Counter()
    for text in texts:
        ids = tokenizer.encode(text)
        total += len(ids)
        if missing := ids.count(UNK):
            unknown += missing
            examples.update(tokenizer.unknown(text))
    return UnknownShare(unknown, total, tuple(part for part, _ in examples.most_common(10)))


def save_tokenizers(folder: str | Path, source: Tokenizer, target: Tokenizer, rules: TextRules | None = None) -> None:
    """Write both tokenizers, and the rules for the text in front of them, into ``folder``.

    One object given twice stays one.

    ``tokenizer.json`` is written last, each file atomically, and nothing else in the folder is touched: a half-written
    folder is noticed by :func:`load_tokenizers`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sides = {"shared": source} if source is target else {"source": source, "target": target}
    entries = {side: _entry(folder, side, tokenizer) for side, tokenizer in sides.items()}
    head: dict[str, Any] = {"format": _FORMAT_WITH_RULES, "text": rules.to_json()} if rules else {"format": _FORMAT}
    write_json(folder / TOKENIZER_FILE, {**head, **entries})


def load_tokenizers(folder: str | Path) -> tuple[Tokenizer, Tokenizer]:
    """Read (source, target) from a folder that :func:`save_tokenizers` wrote; the same object if shared.

    Raises:
        TokenizerError: no such folder, a file is missing, truncated, or is not the one that was saved.
    """
    folder = Path(folder)
    path = folder / TOKENIZER_FILE
    table = _table(path)
    if "shared" in table:
        shared = _load(folder, table["shared"])
        return shared, shared
    if "source" not in table or "target" not in table:
        raise TokenizerError("names neither a shared tokenizer nor one for source and target", path=path)
    return _load(folder, table["source"]), _load(folder, table["target"])


def load_rules(folder: str | Path) -> TextRules:
    """Read the rules for text from such a folder; a folder without any has rules that change nothing.

    Raises:
        TokenizerError: no such folder, damaged, or of a newer format.
        MissingExtraError: the rules ask for traditional script and OpenCC is not installed.
    """
    path = Path(folder) / TOKENIZER_FILE
    table = _table(path)
    if table["format"] == _FORMAT:
        return TextRules()
    try:
        return TextRules.from_json(table.get("text"))
    except TokenizerError as error:
        raise TokenizerError(str(error), path=path) from None


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenizerError("no such file: this folder holds no tokenizer", path=path) from None
    except (OSError, ValueError):
        raise TokenizerError("cannot be read as JSON: the file is truncated or damaged", path=path) from None
    if not isinstance(table, dict) or table.get("format") not in (_FORMAT, _FORMAT_WITH_RULES):
        raise TokenizerError(f"not a tokenizer of format {_FORMAT} or {_FORMAT_WITH_RULES}", path=path)
    return table


def _entry(folder: Path, side: str, tokenizer: Tokenizer) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.fingerprint,
    }
    if isinstance(tokenizer, SentencePieceTokenizer):
        entry["file"] = f"{side}.model"
        with atomic_file(folder / entry["file"]) as temporary:
            temporary.write_bytes(tokenizer.model)
    elif isinstance(tokenizer, (CharacterTokenizer, LetterTokenizer, SymbolTokenizer)):
        entry["vocabulary"] = list(tokenizer.vocabulary)
    elif isinstance(tokenizer, TableTokenizer):
        entry |= {"file": f"{side}.model", "specials": asdict(tokenizer.specials)}
        entry |= {"codes": tokenizer.codes, "vocabulary": list(tokenizer.table)}
        if tokenizer.atoms:
            entry["atoms"] = [asdict(atom) for atom in tokenizer.atoms]
        with atomic_file(folder / entry["file"]) as temporary:
            temporary.write_bytes(tokenizer.model)
    elif isinstance(tokenizer, WordTokenizer):
        entry |= {"vocabulary": list(tokenizer.table), "specials": asdict(tokenizer.specials)}
        entry |= {"level": tokenizer.level, "separator": tokenizer.separator, "restricted": tokenizer.restricted}
        if tokenizer.codes is not None:
            entry["file"] = f"{side}.codes"
            write_text(folder / entry["file"], tokenizer.codes)
    elif isinstance(tokenizer, ByteTokenizer):
        entry |= {"specials": asdict(tokenizer.specials), "atoms": [asdict(atom) for atom in tokenizer.atoms]}
    elif isinstance(tokenizer, JsonTokenizer):
        entry |= {"file": f"{side}.tokenizer.json", "specials": asdict(tokenizer.specials)}
        write_text(folder / entry["file"], tokenizer.content)
    else:
        raise TypeError(f"no file format for {type(tokenizer).__name__}")
    return entry


def _load(folder: Path, entry: Any) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    kind = entry.get("kind") if isinstance(entry, dict) else None
    tokenizer: Tokenizer
    try:
        if kind == "sentencepiece":
            path = folder / Path(entry["file"]).name
            tokenizer = SentencePieceTokenizer(path.read_bytes())
        elif kind in LIST_KINDS:
            tokenizer = LIST_KINDS[kind]([str(part) for part in entry["vocabulary"]])
        elif kind == "sentencepiece-table":
            path = folder / Path(entry["file"]).name
            table, specials = [str(part) for part in entry["vocabulary"]], Specials.from_json(entry["specials"])
            atoms = [Atom(**atom) for atom in entry.get("atoms", [])]
            tokenizer = TableTokenizer(
                path.read_bytes(), table, specials, entry["vocab_size"], codes=entry["codes"], atoms=atoms
            )
        elif kind == "words":
            path = folder / Path(entry["file"]).name if "file" in entry else path
            codes = path.read_text(encoding="utf-8") if "file" in entry else None
            table, specials = [str(part) for part in entry["vocabulary"]], Specials.from_json(entry["specials"])
            tokenizer = WordTokenizer(
                table, specials, entry["level"], codes, entry["separator"], restricted=entry["restricted"]
            )
        elif kind == "bytes":
            atoms = [Atom(**atom) for atom in entry["atoms"]]
            tokenizer = ByteTokenizer(Specials.from_json(entry["specials"]), entry["vocab_size"], atoms)
        elif kind == "tokenizer-json":
            path = folder / Path(entry["file"]).name
            content, specials = path.read_text(encoding="utf-8"), Specials.from_json(entry["specials"])
            tokenizer = JsonTokenizer(content, specials, entry["vocab_size"])
        else:
            raise TokenizerError(f"the kind of tokenizer {kind!r} is not known", path=path)
    except OSError:
        raise TokenizerError("the file is missing or cannot be read", path=path) from None
    except TokenizerError as error:
        raise error if error.path else TokenizerError(str(error), path=path) from None
    except (KeyError, TypeError, ValueError):
        raise TokenizerError(f"the entry for a tokenizer of kind {kind} is incomplete", path=path) from None
    if tokenizer.fingerprint != entry.get("sha256"):
        raise TokenizerError("the content is not what was saved (SHA-256 differs): get the folder again", path=path)
    return tokenizer
