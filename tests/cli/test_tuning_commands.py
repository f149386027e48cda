"""Fine-tuning on the command line: names of parameters, a run of adapters used, shown, merged, exported; doctor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pellucid
from pellucid.native.build import NativeUnavailableError, load_library
from toys import Run, toy_settings

TEXTS = ["ba da ga", "ta ra pa na", "ka"]


def arguments(corpus: Path, start: str, *more: str) -> list[str]:
    training = toy_settings(corpus)["training"] | {"max_updates": 4, "validate_every": 2, "metric": "loss"}
    settings = [f"training.{name}={value}" for name, value in training.items() if name != "warmup_steps"]
    sides = [
        f"data.{name}.{side}={name}.{ending}"
        for name in ("train", "dev")
        for side, ending in (("source", "src"), ("target", "tgt"))
    ]
    return [f"data.dir={corpus}", *sides, *settings, "training.warmup_steps=2", f"training.init_from={start}", *more]


@pytest.fixture
def adapted(tiny_run: Path, toy_corpus: Path, run: Run) -> Path:
    """A run of adapters that change what is said, and its base beside it, in the current folder."""
    shutil.copytree(tiny_run, "base", ignore=shutil.ignore_patterns("cache"))
    result = run("train", *arguments(toy_corpus, "base", "output=run", "training.lora={rank: 2}"))
    assert result.status == 0, result.err
    assert "adapters of rank 2 on 6 layers, the model itself is frozen" in result.err
    for name in ("best", "last"):
        file = Path("run", name, "adapter.safetensors")
        torch.manual_seed(1)
        save_file({name: torch.randn_like(tensor) for name, tensor in load_file(file).items()}, file)
    return Path("run")


def texts(run: Run, model: Path | str, *more: str) -> list[str]:
    result = run("translate", "--model", model, "--beam-size", 2, "--max-length", 12, *more, *TEXTS)
    assert result.status == 0, result.err
    return result.out.splitlines()


def test_info_names_every_parameter(tiny_run: Path, run: Run) -> None:
    parameters = dict(pellucid.load(tiny_run, "cpu").model.named_parameters())
    lines = run("info", tiny_run, "--parameters").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(parameters)
    shape = " × ".join(map(str, parameters["encoder.embedder.embedding.weight"].shape))
    assert f"encoder.embedder.embedding.weight\t{shape}\tdecoder.embedder.embedding.weight, output.weight" in lines
    assert "encoder.layers.0.attention.query.weight\t32 × 32" in lines
    found = json.loads(run("info", tiny_run, "--parameters", "--json").out)["parameters"]
    assert {one["name"]: one["shape"] for one in found} == {name: list(p.shape) for name, p in parameters.items()}


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_info_reads_no_numbers(storage: str, tiny_run: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("convert", tiny_run, "model", "--storage", storage).status == 0
    expected = json.loads(run("info", "model", "--json").out)
    monkeypatch.setattr("pellucid.model.storage._read_tensors", None)
    assert json.loads(run("info", "model", "--json").out) == expected
    total = sum(parameter.numel() for parameter in pellucid.load(tiny_run, "meta").model.parameters())
    assert expected["parameters"]["total"] == total
    shown = run("info", "model").out
    assert max(map(len, shown.splitlines())) < 120 and "\ndecoding         " in shown
    file = Path("model", "model.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    cut = run("info", "model")
    assert cut.status == 2 and "not readable as safetensors" in cut.err


def test_a_run_of_adapters_is_used_shown_merged_and_exported(adapted: Path, run: Run, tmp_path: Path) -> None:
    found = texts(run, adapted, "--engine", "torch")
    assert found != texts(run, "base", "--engine", "torch")
    shown = run("info", adapted).out
    assert "adapters         of rank 2, alpha 16, on 6 layers\n" in shown
    assert f"                 of {tmp_path / 'base'} (SHA-256 " in shown
    size = Path("run", "best", "adapter.safetensors").stat().st_size
    assert f"weights          float32, {size:,} bytes\n" in shown

    assert run("convert", adapted, "merged").status == 0
    assert run("convert", adapted, "small", "--storage", "bfloat16").status == 0
    assert run("export", adapted, "exported", "--to", "hf").status == 0
    shutil.rmtree("base")
    names = {path.name for path in Path("merged").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer"}
    assert "adapter" not in json.loads(Path("merged", "config.json").read_text())
    assert texts(run, "merged", "--engine", "torch") == found
    # Greedy: when a beam search ends is not all that transformers' settings can say.
    greedy = ("--engine", "torch", "--beam-size", 1)
    assert texts(run, "exported", *greedy) == texts(run, "merged", *greedy)
    assert texts(run, "small", "--engine", "torch")
    assert "adapters" not in run("info", "merged").out
    assert run("convert", "merged", "again").status == 2

    gone = run("translate", "--model", adapted, "ba")
    assert gone.status == 2 and f"run/best: an adapter of {tmp_path / 'base'}, and that cannot be loaded" in gone.err


def test_the_native_engine_computes_with_merged_weights_and_sees_the_base_go(
    adapted: Path, run: Run, tmp_path: Path
) -> None:
    try:
        load_library()
    except NativeUnavailableError as error:
        pytest.skip(f"no native engine: {error}")
    native = ("--engine", "native")
    assert texts(run, adapted, *native) == texts(run, adapted, "--engine", "torch")
    assert texts(run, adapted, *native) != texts(run, "base", *native)  # packed now
    file = Path("base", "best", "model.safetensors")
    weights = load_file(file)
    save_file({name: tensor * 2 for name, tensor in weights.items()}, file)
    changed = run("translate", "--model", adapted, *native, "ba")
    assert changed.status == 2 and "whose weights have changed since" in changed.err
    shutil.rmtree("base")
    gone = run("translate", "--model", adapted, *native, "ba")
    assert gone.status == 2 and f"an adapter of {tmp_path / 'base'}, and that cannot be loaded" in gone.err


@pytest.mark.parametrize(
    "tuning",
    [[], ["training.lora={}"], ["training.freeze=[encoder.*]"]],
    ids=["whole", "adapters", "frozen encoder"],
)
def test_doctor_looks_at_what_is_trained(tuning: list[str], tiny_run: Path, toy_corpus: Path, run: Run) -> None:
    result = run("doctor", *arguments(toy_corpus, str(tiny_run), *tuning), "--json")
    checks = {check["name"]: check for check in json.loads(result.out)["checks"]}
    gradient = checks["every parameter gets a gradient"]
    assert gradient["verdict"] == "ok", gradient
    assert ("more are frozen" in gradient["figure"]) == bool(tuning)
    assert checks["loss of the model to start from"]["verdict"] == "ok"
    assert checks["one batch can be learned by heart"]["verdict"] == "ok"


def test_doctor_refuses_a_pattern_that_matches_nothing(tiny_run: Path, toy_corpus: Path, run: Run) -> None:
    result = run("doctor", *arguments(toy_corpus, str(tiny_run), "training.freeze=[encoder.layer.*]"))
    assert result.status == 2
    assert "training.freeze: encoder.layer.* matches no parameter; near it: encoder.layers.0." in result.err
