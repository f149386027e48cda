from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import data_cases
import pytest

from pellucid.config import TokenizerConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import TOKENIZER_FILE, load_rules, load_tokenizers, save_tokenizers, train_tokenizers
from pellucid.data.tokenizer_kinds import CharacterTokenizer, SymbolTokenizer, Tokenizer
from pellucid.errors import TokenizerError

PAIRS = data_cases.sentence_pairs(60)
JOINT = train_tokenizers(TokenizerConfig(vocab_size=350), PAIRS)
SEPARATE = train_tokenizers(TokenizerConfig(vocab_size=330, joint=False, model="bpe"), PAIRS)
SETS: dict[str, tuple[Tokenizer, Tokenizer]] = {
    "joint": JOINT,
    "separate": SEPARATE,
    "mixed": (JOINT[0], CharacterTokenizer(["e", " ", "ü", "\n", "\u2028"])),
    "lists": (CharacterTokenizer(["我", "爱"]), SymbolTokenizer(["t͡ʃ", '"', "o̞"])),
    "one list": (SymbolTokenizer(["a", "b"]),) * 2,
}


@pytest.mark.parametrize("name", SETS)
def test_a_saved_folder_is_read_back_the_same(tmp_path: Path, name: str) -> None:
    source, target = SETS[name]
    save_tokenizers(tmp_path / "tokenizer", source, target)
    read_source, read_target = load_tokenizers(tmp_path / "tokenizer")
    assert (read_source is read_target) == (source is target)
    for before, after in ((source, read_source), (target, read_target)):
        assert type(after) is type(before)
        assert after.fingerprint == before.fingerprint
        assert after.vocab_size == before.vocab_size
        for text in (*PAIRS[3], "我爱 中国 t͡ʃ b e"):
            assert after.encode(text) == before.encode(text)


def test_what_the_folder_holds(tmp_path: Path) -> None:
    save_tokenizers(tmp_path, *JOINT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.model", TOKENIZER_FILE]
    table = json.loads((tmp_path / TOKENIZER_FILE).read_text(encoding="utf-8"))
    assert table == {
        "format": 1,
        "shared": {
            "kind": "sentencepiece",
            "vocab_size": JOINT[0].vocab_size,
            "sha256": JOINT[0].fingerprint,
            "file": "shared.model",
        },
    }


def test_other_files_in_the_folder_stay_and_other_tokenizers_can_be_saved_over_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    save_tokenizers(tmp_path, *JOINT)
    save_tokenizers(tmp_path, *SEPARATE)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"
    source, target = load_tokenizers(str(tmp_path))
    assert (source.fingerprint, target.fingerprint) == (SEPARATE[0].fingerprint, SEPARATE[1].fingerprint)


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        change(table)
        (folder / TOKENIZER_FILE).write_text(json.dumps(table), encoding="utf-8")

    return apply


def _cut(folder: Path) -> None:
    model = folder / "source.model"
    model.write_bytes(model.read_bytes()[:1000])


def _flip(folder: Path) -> None:
    content = bytearray((folder / "target.model").read_bytes())
    content[content.index("▁die".encode()) + 4] ^= 1
    (folder / "target.model").write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no table": (lambda f: (f / TOKENIZER_FILE).unlink(), TOKENIZER_FILE, "this folder holds no tokenizer"),
    "half a table": (
        lambda f: (f / TOKENIZER_FILE).write_text('{"format": 1, "sour', encoding="utf-8"),
        TOKENIZER_FILE,
        "cannot be read as JSON",
    ),
    "a list": (lambda f: (f / TOKENIZER_FILE).write_text("[]", encoding="utf-8"), TOKENIZER_FILE, "of format 1"),
    "a later format": (_edit(lambda t: t.update(format=3)), TOKENIZER_FILE, "not a tokenizer of format 1 or 2"),
    "one side": (_edit(lambda t: t.pop("target")), TOKENIZER_FILE, "names neither a shared tokenizer nor one for"),
    "no model": (lambda f: (f / "target.model").unlink(), "target.model", "is missing or cannot be read"),
    "half a model": (_cut, "source.model", "not a SentencePiece model"),
    "a changed byte": (_flip, "target.model", "not what was saved"),
    "the wrong model": (
        lambda f: (f / "target.model").write_bytes((f / "source.model").read_bytes()),
        "target.model",
        "not what was saved (SHA-256 differs)",
    ),
    "an unknown kind": (_edit(lambda t: t["source"].update(kind="runes")), TOKENIZER_FILE, "'runes' is not known"),
    "an entry of no kind": (_edit(lambda t: t.update(source=3)), TOKENIZER_FILE, "None is not known"),
    "no file name": (_edit(lambda t: t["source"].pop("file")), TOKENIZER_FILE, "sentencepiece is incomplete"),
    "no vocabulary": (_edit(lambda t: t["source"].update(kind="symbols")), TOKENIZER_FILE, "symbols is incomplete"),
    "another hash": (_edit(lambda t: t["source"].update(sha256="0")), "source.model", "not what was saved"),
    "no hash": (_edit(lambda t: t["source"].pop("sha256")), "source.model", "not what was saved"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_sentence_with_the_file(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, file, message = DAMAGES[name]
    save_tokenizers(tmp_path, *SEPARATE)
    damage(tmp_path)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizers(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert caught.value.path == tmp_path / file
    assert capfd.readouterr() == ("", "")


def test_a_changed_vocabulary_is_noticed(tmp_path: Path) -> None:
    save_tokenizers(tmp_path, *SETS["lists"])
    _edit(lambda table: table["source"]["vocabulary"].reverse())(tmp_path)
    with pytest.raises(TokenizerError, match="not what was saved"):
        load_tokenizers(tmp_path)


def test_a_model_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    save_tokenizers(tmp_path / "inside", *SEPARATE)
    (tmp_path / "inside" / "source.model").rename(tmp_path / "source.model")
    _edit(lambda table: table["source"].update(file="../source.model"))(tmp_path / "inside")
    with pytest.raises(TokenizerError, match=r"inside/source\.model: the file is missing"):
        load_tokenizers(tmp_path / "inside")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere/tokenizer\.json: no such file: this folder holds no tokenizer$"):
        load_tokenizers(tmp_path / "nowhere")


def test_rules_for_text_are_in_the_folder(tmp_path: Path) -> None:
    rules = TextRules("simplified", "none", ("url",))
    save_tokenizers(tmp_path, *JOINT, rules)
    assert load_rules(tmp_path) == rules
    assert load_tokenizers(tmp_path)[0].fingerprint == JOINT[0].fingerprint
    # Who knows nothing of rules must not read text past them.
    assert json.loads((tmp_path / TOKENIZER_FILE).read_text(encoding="utf-8"))["format"] == 2


def test_a_folder_without_rules_is_as_it_was_before_there_were_any(tmp_path: Path) -> None:
    for rules in (None, TextRules()):
        save_tokenizers(tmp_path, *JOINT, rules)
        table = json.loads((tmp_path / TOKENIZER_FILE).read_text(encoding="utf-8"))
        assert list(table) == ["format", "shared"] and table["format"] == 1
        assert load_rules(tmp_path) == TextRules()


def test_damaged_rules_are_refused_with_the_file(tmp_path: Path) -> None:
    save_tokenizers(tmp_path, *JOINT, TextRules("simplified"))
    for edit in (
        lambda t: t.pop("text"),
        lambda t: t["text"].pop("placeholders"),
        lambda t: t["text"].update(format=9),
    ):
        shutil.copy(tmp_path / TOKENIZER_FILE, tmp_path / "kept")
        _edit(edit)(tmp_path)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: the rules for text are") as caught:
            load_rules(tmp_path)
        assert caught.value.path == tmp_path / TOKENIZER_FILE
        shutil.move(tmp_path / "kept", tmp_path / TOKENIZER_FILE)
