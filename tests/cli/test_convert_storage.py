"""`pellucid convert --storage`: a model of our own with its weights in fewer bytes, and everything else as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.model.weights import quantize
from toys import Run


def test_everything_but_the_weights_stays(tiny_run: Path, run: Run) -> None:
    shutil.copytree(tiny_run / "last", "model")
    Path("model", "examples.json").write_text("[]")
    result = run("convert", "model", "small", "--storage", "int8")
    assert (result.status, result.out, result.err) == (0, "", "wrote small\n")
    before, after = pellucid.load("model", device="cpu"), pellucid.load("small", device="cpu")
    assert after.document == {**before.document, "storage": "int8"}
    exact = dict(before.model.named_parameters())
    for name, parameter in after.model.named_parameters():
        original = exact[name].detach()
        if original.dim() == 2:
            values, scales = (torch.from_numpy(part) for part in quantize(original.numpy()))
            assert torch.equal(parameter, values.float() * scales[:, None])
        else:
            assert torch.equal(parameter, original)
    # Tokenizers and what stands beside them come along; what only training needs does not.
    names = {path.relative_to("small").as_posix() for path in Path("small").rglob("*") if path.is_file()}
    expected = {path.relative_to("model").as_posix() for path in Path("model").rglob("*") if path.is_file()}
    assert "training.json" in expected and "examples.json" in names
    assert names == {name for name in expected if not name.startswith("training.")}
    assert after.generate(["ba da"])[0].text == before.generate(["ba da"])[0].text == "BA DA"
    # And back: float32 again, of the rounded numbers.
    assert run("convert", "small", "whole", "--storage", "float32").status == 0
    whole = pellucid.load("whole", device="cpu")
    assert "storage" not in whole.document
    assert all(map(torch.equal, whole.model.parameters(), after.model.parameters()))


def test_info_shows_the_storage(tiny_run: Path, run: Run) -> None:
    run("convert", tiny_run, "small", "--storage", "bfloat16")
    size = Path("small", "model.safetensors").stat().st_size
    assert f"\nweights          bfloat16, {size:,} bytes\n" in run("info", "small").out
    assert json.loads(run("info", "small", "--json").out)["weights"] == {"storage": "bfloat16", "bytes": size}
    assert json.loads(run("info", tiny_run, "--json").out)["weights"]["storage"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--storage", "int4"], "--storage int4: there is float32, bfloat16, int8"),
        ([], "it is a model folder of pellucid already: nothing to convert, unless --storage says how"),
    ],
)
def test_what_is_refused(arguments: list[str], sentence: str, tiny_run: Path, run: Run) -> None:
    result = run("convert", tiny_run, "out", *arguments)
    assert result.status == 2 and sentence in result.err
    assert not Path("out").exists()
