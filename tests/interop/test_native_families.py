"""Each family of checkpoints and the native engine: who is run by it, who is not, and what is said then."""

from __future__ import annotations

from pathlib import Path

import pytest
from hf_twins import TEXTS, make_bert, make_twin
from marian_twin import MarianNpz
from test_language_models import make_decoder
from toolkit_twins import Fairseq, Joey, OpenNMT

from pellucid import native_loading
from pellucid.native.build import NativeUnavailableError, load_library
from toys import Run

try:
    load_library()
except NativeUnavailableError as reason:
    pytest.skip(f"no native engine: {reason}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native_loading, "load_library", lambda: None)  # it is there, in another folder
    (tmp_path / "m").mkdir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t5", "this model has positions: relative"),
        ("gpt2", "this model is a decoder alone"),
        ("llama", "this model is a decoder alone"),
    ],
)
def test_what_it_cannot_run_is_run_by_pytorch_and_said_once(name: str, reason: str, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "m"
    make_twin(name, folder) if name == "t5" else make_decoder(name, folder)
    loads: list[object] = []
    from pellucid.loading import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.loading.load", lambda *given, **named: loads.append(given) or load(*given, **named))
        found = run("generate", "-m", folder, *TEXTS[:2], "--max-length", 6)
    assert (found.status, found.err) == (0, f"generating with PyTorch, because {reason}\n")
    assert len(loads) == 1
    expected = run("generate", "-m", folder, *TEXTS[:2], "--max-length", 6, "--engine", "torch")
    assert (expected.status, expected.out, expected.err) == (0, found.out, "")
    refused = run("generate", "-m", folder, TEXTS[0], "--precision", "int8")
    assert refused.status == 2 and f"cannot be used because {reason}" in refused.err


def test_an_encoder_alone_generates_in_neither(tmp_path: Path, run: Run) -> None:
    make_bert(tmp_path / "m")
    for engine in ("auto", "native", "torch"):
        found = run("generate", "-m", tmp_path / "m", "a text", "--engine", engine)
        assert (found.status, found.out, len(found.err.splitlines())) == (2, "", 1), found.err


@pytest.mark.parametrize("checkpoint", [Fairseq(), OpenNMT(), Joey(), MarianNpz()], ids=lambda one: type(one).__name__)
def test_other_toolkits_are_packed_once(
    checkpoint: Fairseq | OpenNMT | Joey | MarianNpz, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    checkpoint.save(folder)
    packings: list[object] = []
    pack = native_loading.pack
    monkeypatch.setattr(native_loading, "pack", lambda *given: packings.append(given) or pack(*given))
    answers = [
        run("translate", "-m", folder, *TEXTS[:2], "--engine", engine) for engine in ("native", "native", "torch")
    ]
    assert {answer.status for answer in answers} == {0} and len({answer.out for answer in answers}) == 1
    assert len(packings) == 1
    (file,) = (path for path in folder.iterdir() if path.suffix in (".pt", ".ckpt", ".npz"))
    (folder / "train.log").write_text("one more line")
    assert run("translate", "-m", file, TEXTS[0], "--engine", "native").status == 0
    (folder / "other.pt").write_bytes(b"of the next epoch")
    assert run("translate", "-m", file, TEXTS[0], "--engine", "native").status == 0
    assert len(packings) == 2  # the file is another place than its folder
    file.touch()
    assert run("translate", "-m", file, TEXTS[0], "--engine", "native").status == 0
    assert len(packings) == 3


def test_a_start_that_takes_long_says_why_once(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_twin("marian", tmp_path / "m")
    monkeypatch.setattr("pellucid.commands.engines.NOTICED_SECONDS", 0.0)
    first = run("translate", "-m", tmp_path / "m", TEXTS[0])
    again = run("translate", "-m", tmp_path / "m", TEXTS[0])
    assert "weights were laid out for the native engine in" in first.err and "kept there for the next time" in first.err
    assert (again.err, again.out) == ("", first.out)
