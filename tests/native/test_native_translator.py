"""A trained model through the native engine: the same answers as PyTorch's, and no PyTorch where it need not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import needs_engine

import pellucid
from pellucid.errors import ConfigError, GenerationError
from pellucid.native import build
from pellucid.native.build import NativeUnavailableError
from pellucid.native_loading import load_native
from pellucid.native_translator import NativeTranslator
from pellucid.results import Generation
from toys import Run

needs_engine()


@pytest.fixture(scope="module")
def sources(toy_corpus: Path) -> list[str]:
    return ["", *(toy_corpus / "dev.src").read_text(encoding="utf-8").splitlines(), "  "]


@pytest.fixture(scope="module")
def native(tiny_run: Path) -> NativeTranslator:
    return load_native(tiny_run, workers=2)


def close(one: list[Generation], other: list[Generation]) -> bool:
    pairs = list(zip(one, other, strict=True))
    logprobs = [
        (mine.token_logprobs, yours.token_logprobs)
        for first, second in pairs
        for mine, yours in zip(first.hypotheses, second.hypotheses, strict=True)
    ]
    same = all([h.token_ids for h in a.hypotheses] == [h.token_ids for h in b.hypotheses] for a, b in pairs)
    return same and all(np.allclose(mine, yours, atol=1e-4) for mine, yours in logprobs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beam_size": 1},
        {"beam_size": 4, "n_best": 4},
        {"prefix": "BA", "beam_size": 3},
        {"sampling": True, "n_best": 3, "seed": 7},
        {"beam_size": 4, "diversity_groups": 2, "n_best": 4},
        {"no_repeat_ngram": 2, "repetition_penalty": 1.3},
        {"forbidden_tokens": ["BA"]},
        {"forbidden_phrases": ["BA DA"]},
    ],
)
def test_the_same_answers(
    tiny_run: Path, native: NativeTranslator, sources: list[str], settings: dict[str, Any]
) -> None:
    torch_model = pellucid.load(tiny_run, device="cpu")
    assert close(native.generate(sources, **settings), torch_model.generate(sources, **settings))


def test_parts_are_streamed(native: NativeTranslator, sources: list[str]) -> None:
    for source in sources[:6]:
        assert "".join(native.stream(source)) == native.generate([source])[0].text


def test_the_inside_is_pytorchs(native: NativeTranslator, sources: list[str]) -> None:
    assert native.score(sources[1:3], ["BA", "DA GA"])[1].tokens[:2]
    assert native.inspect(sources[1]).cross_attention.ndim == 4


def test_where_nothing_may_follow_it_is_said(native: NativeTranslator) -> None:
    with pytest.raises(GenerationError, match="text 2: after 0 tokens no token with a probability above 0 may follow"):
        native.generate(["", "ba"], allowed_tokens=["BA"], forbidden_phrases=["BA"], min_length=2)


def test_packed_once_and_anew_when_the_model_changes(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    build.load_library.cache_clear()
    monkeypatch.setattr("pellucid.native_loading.load_library", lambda: None)
    files: Callable[[], list[Path]] = lambda: sorted((tmp_path / "packed").iterdir())  # noqa: E731
    load_native(tiny_run)
    first = files()[0], files()[0].stat().st_mtime_ns
    load_native(tiny_run)
    assert (files()[0], files()[0].stat().st_mtime_ns) == first and len(files()) == 1
    load_native(tiny_run, precision="int8")
    assert len(files()) == 2
    os.utime(tiny_run / "best" / "model.safetensors", ns=(1, 1))
    load_native(tiny_run)
    assert len(files()) == 2 and first[0] not in files()  # what it replaces is gone


def test_packed_weights_that_are_damaged_are_packed_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    monkeypatch.setattr("pellucid.native_loading.load_library", lambda: None)
    expected = load_native(tiny_run).generate(["ba da"])[0].text
    (file,) = (tmp_path / "packed").iterdir()
    for damaged in (b"", b"x" * 100, file.read_bytes()[:-8000]):
        file.write_bytes(damaged)
        assert load_native(tiny_run).generate(["ba da"])[0].text == expected


def test_a_library_that_cannot_be_used_is_a_reason_for_the_other_engine(tmp_path: Path) -> None:
    (tmp_path / "engine.so").write_bytes(b"no library")
    with pytest.raises(build.NativeUnavailableError, match=r"engine\.so cannot be used .*delete it"):
        build._opened(tmp_path / "engine.so")


def test_a_prefix_that_is_forbidden_is_refused(native: NativeTranslator) -> None:
    token = native.generate(["ba da"])[0].hypotheses[0].tokens[0]
    with pytest.raises(ConfigError, match="text 2: the forced prefix holds token"):
        native.generate(["ba", "ba da"], prefixes=["", token.replace("▁", "")], forbidden_tokens=[token])


INTERRUPTED = """
import signal, sys, threading, time
from pellucid.native_loading import load_native

model = load_native(sys.argv[1])
main = threading.main_thread().ident
def interrupt():
    for wait in (0.5, 0.0, 0.01):
        time.sleep(wait)
        signal.pthread_kill(main, signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    model.generate(["ba da " * 400] * 200, beam_size=30, min_length=2000, max_length=4000)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_search_and_nothing_else(tiny_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tiny_run)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1, -2, 130), done  # a signal may also come between two statements
    assert "Segmentation" not in done.stderr and "interrupted" in done.stdout + done.stderr.lower()


COLD = """
import sys
from pellucid.cli import main
sys.argv = ["pellucid", "translate", "-m", sys.argv[1], "ba da", "--precision", "int8"]
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules)
"""


def test_no_pytorch_on_the_way_to_a_text(tiny_run: Path) -> None:
    done = subprocess.run([sys.executable, "-c", COLD, tiny_run], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "False"


def test_the_command_line_chooses(tiny_run: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["ba da", "ga", "ka la ma"]
    answers = [
        run("translate", "-m", tiny_run, *texts, *options)
        for options in ([], ["--engine", "torch"], ["--engine", "native", "--workers", "2"], ["--stream"])
    ]
    assert {answer.out for answer in answers} == {answers[0].out} and {answer.err for answer in answers} == {""}
    for options, words in (
        (["--engine", "fast"], "--engine is one of auto, native, torch, not 'fast'"),
        (["--precision", "int4"], "--precision is one of float32, int8, not 'int4'"),
        (["--engine", "torch", "--precision", "int8"], "--precision int8 needs the native engine"),
    ):
        answer = run("translate", "-m", tiny_run, "ba", *options)
        assert answer.status == 2 and words in answer.err

    def unable() -> None:
        raise NativeUnavailableError("this CPU has no AVX512-VNNI")

    monkeypatch.setattr("pellucid.native_loading.load_library", unable)
    answer = run("translate", "-m", tiny_run, *texts)
    assert answer.out == answers[0].out
    assert answer.err == "generating with PyTorch, because this CPU has no AVX512-VNNI\n"
    answer = run("translate", "-m", tiny_run, *texts, "--engine", "native")
    assert answer.status == 2 and "because this CPU has no AVX512-VNNI" in answer.err


def test_a_benchmark_of_ones_own(tiny_run: Path, toy_corpus: Path, run: Run) -> None:
    answer = run("bench", tiny_run, "-i", toy_corpus / "dev.src", "-n", 16, "--seconds", 0.1, "--json")
    assert (answer.status, answer.err) == (0, "")
    results = json.loads(answer.out)["results"]
    measured = [(row["engine"], row["precision"], row["beam"], row["at once"]) for row in results]
    ways = [("native", "int8"), ("native", "float32"), ("torch", "float32")]
    assert measured == [(*way, beam, batch) for way in ways for beam in ("1", "2") for batch in ("64", "1")]
    assert all(float(row["sentences/s"].replace(",", "")) > 0 for row in results)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_contract_holds(tiny_run: Path, toy_corpus: Path, run: Run, precision: str) -> None:
    sources = ["-i", toy_corpus / "dev.src", "-n", 6]
    answer = run("check", tiny_run, *sources, "--engine", "native", "--precision", precision)
    assert answer.status == 0, answer.out
    assert "17 of 17 hold" in answer.out


def test_a_run_goes_on_in_the_same_precision_only(tiny_run: Path, toy_corpus: Path, run: Run, workdir: Path) -> None:
    line = ["translate", "-m", tiny_run, "-i", toy_corpus / "dev.src", "-o", "out", "--resume"]
    assert run(*line).status == 0
    assert "is finished" in run(*line).err
    refused = run(*line, "--precision", "int8")
    assert refused.status == 2 and 'made with other settings: precision ("float32" → "int8"); give' in refused.err
    refused = run(*line, "--engine", "torch")
    assert refused.status == 2 and 'made with other settings: engine ("native" → "torch"); give' in refused.err
    assert "the model" not in refused.err
    proof = workdir / "out.done.json"  # as earlier versions left it
    values = json.loads(proof.read_text())
    for name in ("engine", "precision"):
        del values["journal"]["identity"][name]
    proof.write_text(json.dumps(values))
    assert "is finished" in run(*line).err
    refused = run(*line, "--engine", "torch")
    assert refused.status == 2 and "made with other settings: the model; give" in refused.err
