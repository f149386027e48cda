"""`pellucid align`: Pharaoh lines for pairs of lines, and the choice of heads that it keeps with a model."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import pellucid
from pellucid.alignment import HEADS_FILE, Alignment, AlignmentHeads, align, align_generations, load_heads, save_heads
from pellucid.commands import reading
from toys import SYMBOLS, Run

NOTE = "no attention heads were chosen for this model; alignments are the mean of all heads of decoder layer 1 of 1"


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path) -> Path:
    """A model folder of this test's own."""
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def chosen(model: Path) -> Path:
    save_heads(model, AlignmentHeads(((0, 1),), "read", {"method": "by hand"}))
    return model


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of eight lines: copies, blank on either side or both, and unlike lengths."""
    sources = ["ba da", "", "ga ka la", " ", "ma", "na pa ra", "ta", "ba ba ba"]
    targets = ["BA DA", "BA", "GA KA LA", "", "", "RA", "TA TA", "BA BA BA"]
    for name, lines in (("src", sources), ("tgt", targets)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    return tmp_path / "src", tmp_path / "tgt"


def expected(model: Path, pairs: tuple[Path, Path], **settings: object) -> list[Alignment]:
    sides = [path.read_text().splitlines() for path in pairs]
    return align(pellucid.load(model, device="cpu"), *sides, **settings)  # type: ignore[arg-type]


def test_a_pharaoh_line_for_each_pair(
    chosen: Path, pairs: tuple[Path, Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("align", "--model", chosen, *pairs)
    found = [each.pharaoh for each in expected(chosen, pairs)]
    assert result == (0, "".join(line + "\n" for line in found), "")
    assert [not line for line in found[1:5]] == [True, False, True, True]
    monkeypatch.setattr(reading, "CHUNK_BATCHES", 1)
    assert run("align", "-m", chosen, *pairs, "--batch-size", 2, "-o", tmp_path / "out") == (0, "", "")
    assert (tmp_path / "out").read_text() == result.out
    assert run("align", "-m", chosen, "-", pairs[1], stdin=pairs[0].read_bytes()) == result


def test_units_and_threshold_are_passed_on(chosen: Path, pairs: tuple[Path, Path], run: Run) -> None:
    plain = run("align", "-m", chosen, *pairs).out
    soft = run("align", "-m", chosen, *pairs, "--alignment-threshold", 0.01, "--alignment-units", "tokens").out
    assert soft.splitlines() == [e.pharaoh for e in expected(chosen, pairs, threshold=0.01, units="tokens")]
    assert len(soft) > len(plain)


def test_json_says_what_is_linked(chosen: Path, pairs: tuple[Path, Path], run: Run) -> None:
    rows = [json.loads(line) for line in run("align", "-m", chosen, *pairs, "--json").out.splitlines()]
    found = expected(chosen, pairs)
    assert [row["alignment"] for row in rows] == [[list(link) for link in each.links] for each in found]
    assert [row["alignment_weights"] for row in rows] == [pytest.approx(each.link_weights, abs=1e-5) for each in found]
    assert (rows[2]["source"], rows[2]["source_units"]) == ("ga ka la", ["ga", "ka", "la"])
    assert (rows[5]["target"], rows[5]["target_units"]) == ("RA", ["RA"])
    assert rows[3] == {
        "source": " ", "target": "", "source_units": [], "target_units": [], "alignment": [], "alignment_weights": [],
    }  # fmt: skip


def test_without_a_choice_the_default_is_named_once(model: Path, pairs: tuple[Path, Path], run: Run) -> None:
    result = run("align", "-m", model, *pairs)
    assert result.status == 0
    assert result.err.startswith(NOTE)
    assert result.err.count("\n") == 1


def test_heads_are_chosen_and_kept(model: Path, run: Run, tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = [" ".join(rng.choices(SYMBOLS, k=rng.randint(2, 5))) for _ in range(100)]
    files = tmp_path / "dev.src", tmp_path / "dev.tgt"
    files[0].write_text("".join(line + "\n" for line in lines) + "\n")  # the last is blank
    files[1].write_text("".join(line.upper() + "\n" for line in lines) + "\n")
    result = run("align", "-m", model, "--choose-heads", *files)
    assert (result.status, result.err) == (0, "")
    heads, agreement, default, diagonal, chance, written = result.out.splitlines()
    document = json.loads((model / HEADS_FILE).read_text())
    assert heads.startswith(f"heads       layer 0: {document['heads'][0][1]}")
    assert agreement.startswith(f"agreement   {document['agreement']:.2f} %   of {document['judged_words']:,} target")
    assert agreement.endswith("(half of the 100 pairs, which did not choose)")
    assert default.startswith(f"  default   {document['default']:.2f} %")
    assert diagonal.startswith(f"  diagonal  {document['diagonal']:.2f} %")
    assert chance.startswith(f"  chance    {document['chance']:.2f} %")
    assert written == f"written     {model / HEADS_FILE}"
    kept = load_heads(pellucid.load(model, device="cpu"))
    assert (kept.heads, kept.reading) == (tuple(map(tuple, document["heads"])), document["reading"])
    facts = json.loads(run("align", "-m", model, "--choose-heads", *files, "--json").out)
    assert {**facts, "format": 1} == {**document, "file": str(model / HEADS_FILE)}
    assert run("align", "-m", model, *files).err == ""  # chosen now


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--alignment-units letters", "unknown kind of alignment units 'letters': choose from words, tokens"),
        ("--alignment-threshold 0", "the alignment threshold (0.0) must be above 0 and at most 1"),
        ("--choose-heads", "8 pairs with text on both sides have 0 target words"),
        ("--choose-heads -o out", "--output and --choose-heads contradict each other"),
        ("--choose-heads --alignment-units tokens", "--alignment-units and --choose-heads contradict each other"),
        ("--choose-heads --alignment-threshold 0.5", "--alignment-threshold and --choose-heads contradict each other"),
    ],
)
def test_what_cannot_be(options: str, sentence: str, model: Path, run: Run, tmp_path: Path) -> None:
    for name in ("src", "tgt"):
        (tmp_path / name).write_text("ba\n" * 8)
    result = run("align", "-m", model, tmp_path / "src", tmp_path / "tgt", *options.split())
    assert (result.status, result.out) == (2, "")
    assert f"pellucid: error: {sentence}" in result.err
    assert not (model / HEADS_FILE).exists()
    assert not Path("out").exists()


def test_files_of_unequal_length(model: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba\nda\n")
    (tmp_path / "tgt").write_text("BA\n")
    for extra in ((), ("--choose-heads",)):
        result = run("align", "-m", model, tmp_path / "src", tmp_path / "tgt", *extra)
        assert result.status == 2
        assert "src has 2 lines and " in result.err
        assert "tgt has 1: aligned files must have the same number of lines" in result.err


def test_a_line_that_is_too_long_is_named(model: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba\n" + "ba " * 5000 + "\n")
    (tmp_path / "tgt").write_text("BA\nBA\n")
    result = run("align", "-m", model, tmp_path / "src", tmp_path / "tgt")
    assert (result.status, result.out) == (2, "")
    assert "tgt, line 2: a sequence of 5001 tokens is longer than max_source_length (4096)" in result.err
    result = run("align", "-m", model, tmp_path / "src", tmp_path / "tgt", "--choose-heads")  # has others to choose by
    assert "1 pairs with text on both sides have 0 target words" in result.err
    assert "(1 more are longer than the model reads)" in result.err


def test_a_damaged_choice(model: Path, pairs: tuple[Path, Path], run: Run) -> None:
    (model / HEADS_FILE).write_text("{")
    result = run("align", "-m", model, *pairs)
    assert (result.status, result.out) == (2, "")
    assert f"{HEADS_FILE}: not a choice of heads of format 1; choose again" in result.err


# -- translate --alignments


def generated(model: Path, sources: list[str], **settings: Any) -> tuple[list[list[str]], list[list[str]]]:
    """Texts and their Pharaoh lines, by the library."""
    translator = pellucid.load(model, device="cpu")
    generations = translator.generate(sources, **settings)
    links = [[each.pharaoh for each in every] for every in align_generations(translator, generations)]
    return [[hypothesis.text for hypothesis in generation.hypotheses] for generation in generations], links


def test_translate_writes_links_behind_each_text(chosen: Path, pairs: tuple[Path, Path], run: Run) -> None:
    sources = pairs[0].read_text().splitlines()
    texts, links = generated(chosen, sources)
    plain = run("translate", "-m", chosen, "-i", pairs[0])
    result = run("translate", "-m", chosen, "-i", pairs[0], "--alignments", "--batch-size", 2)
    assert (result.status, result.err) == (0, "")
    assert [line.rpartition(" ||| ")[0] for line in result.out.splitlines()] == plain.out.splitlines()
    expected = [f"{text[0]} ||| {each[0]}" if text else "" for text, each in zip(texts, links, strict=True)]
    assert result.out.splitlines() == expected
    assert any(re.search(r"\|\|\| \d-\d", line) for line in expected)
    assert run("translate", "-m", chosen, "-i", pairs[0]) == plain


def test_n_best_lists_have_the_links_before_the_score(chosen: Path, run: Run) -> None:
    texts, links = generated(chosen, ["ba da"], beam_size=3, n_best=3)
    result = run("translate", "-m", chosen, "--beam-size", 3, "--n-best", 3, "--alignments", "ba da")
    fields = [line.split(" ||| ") for line in result.out.splitlines()]
    assert [row[:3] for row in fields] == [["0", *pair] for pair in zip(texts[0], links[0], strict=True)]
    assert all(float(row[3]) < 0 for row in fields)


def test_translate_says_it_in_json(chosen: Path, run: Run) -> None:
    options = ("--alignments", "--alignment-threshold", 0.05, "--alignment-units", "tokens", "--json")
    row = json.loads(run("translate", "-m", chosen, *options, "ba da").out)
    (hypothesis,) = row["hypotheses"]
    assert hypothesis["target_units"] == [token for token in hypothesis["tokens"] if token != "</s>"]
    assert hypothesis["source_units"] == ["ba", "da"]
    assert len(hypothesis["alignment"]) == len(hypothesis["alignment_weights"]) >= 1
    assert min(hypothesis["alignment_weights"]) >= 0.05


def test_a_line_that_is_not_translated_has_no_links(chosen: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba\n" + "ba " * 5000 + "\n\nda\n")
    base = ("translate", "-m", chosen, "-i", tmp_path / "src", "--alignments")
    for policy, written in (("keep-source", "ba " * 5000 + " ||| "), ("blank", "")):
        lines = run(*base, "--on-error", policy).out.split("\n")
        assert (lines[1], lines[2]) == (written, "")
        assert re.fullmatch(r"\w+ \|\|\| (0-0)?", lines[3])
    stopped = run(*base)
    assert (stopped.status, stopped.out.count("\n")) == (2, 1)


def test_one_rule_says_where_links_stand(chosen: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without text is blank; a row of an n-best list has all its fields."""
    tokenizer = pellucid.load(chosen).target_tokenizer
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: "")
    base = ("translate", "-m", chosen, "--alignments", "--max-source-length", 3)
    text = b"ba\n\nba da ga\n"
    assert run(*base, "--on-error", "blank", stdin=text).out == "\n\n\n"
    assert run(*base, "--on-error", "keep-source", stdin=text).out == "\n\nba da ga ||| \n"
    for policy, kept in (("blank", ""), ("keep-source", "ba da ga")):
        rows = run(*base, "--on-error", policy, "--n-best", 2, stdin=text).out.splitlines()
        assert [row.split(" ||| ")[:2] for row in rows] == [["0", ""], ["0", ""], ["2", kept]]
        assert {len(row.split(" ||| ")) for row in rows} == {4}
        assert rows[2] == f"2 ||| {kept} |||  ||| -inf"


def test_translate_names_the_default_once_and_refuses_what_cannot_be(model: Path, run: Run) -> None:
    result = run("translate", "-m", model, "--alignments", "ba", "da")
    assert result.status == 0
    assert result.err.startswith(NOTE)
    assert result.err.count("\n") == 1
    for options, sentence in (
        ("--alignment-units tokens", "--alignment-units says how to align: give --alignments, too"),
        ("--alignment-threshold 0.5", "--alignment-threshold says how to align"),
        ("--alignments --alignment-units x", "unknown kind of alignment units 'x'"),
        ("--alignments --document", "--document joins sentences, and each has an alignment of its own"),
    ):
        result = run("translate", "-m", model, *options.split(), "ba")
        assert (result.status, result.out) == (2, "")
        assert sentence in result.err


def test_a_run_is_gone_on_with_by_the_same_heads_only(chosen: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba\nda\n" + "ba " * 5000 + "\n")
    base = (
        "translate",
        "-m",
        chosen,
        "-i",
        tmp_path / "src",
        "-o",
        tmp_path / "out",
        "--batch-size",
        1,
        "--alignments",
    )
    assert run(*base).status == 2
    (tmp_path / "src").write_text("ba\nda\nka\n")
    save_heads(chosen, AlignmentHeads(((0, 0),), "write", {"method": "by hand"}))
    other = run(*base, "--resume")
    assert (other.status, other.out) == (2, "")
    assert "alignments" in other.err
    save_heads(chosen, AlignmentHeads(((0, 1),), "read", {"method": "by hand"}))
    assert run(*base, "--resume").status == 0
    assert (tmp_path / "out").read_text() == run(*base[:5], "--alignments").out


def test_heads_that_copy_unknown_words_belong_to_a_run(chosen: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba\n" + "ba " * 5000 + "\n")
    base = ("translate", "-m", chosen, "-i", tmp_path / "src", "-o", tmp_path / "out", "--batch-size", 1)
    assert run(*base, "--unknown", "copy").status == 2
    (tmp_path / "src").write_text("ba\nka\n")
    save_heads(chosen, AlignmentHeads(((0, 0),), "write", {"method": "by hand"}))
    other = run(*base, "--unknown", "copy", "--resume")
    assert (other.status, other.out) == (2, "")
    assert "copied_by" in other.err
    save_heads(chosen, AlignmentHeads(((0, 1),), "read", {"method": "by hand"}))
    assert run(*base, "--unknown", "copy", "--resume").status == 0
