"""Weights stored in fewer bytes: how far each number may move, how small the file is, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from model_cases import make_config, make_model, make_source
from safetensors.torch import load_file

from pellucid.errors import ModelFolderError
from pellucid.model.storage import CONFIG_FILE, WEIGHTS_FILE, load_model, save_model, save_tensors
from pellucid.model.weights import LARGEST, STORAGES, dequantize, is_compressible, quantize, read_weights

FLOATS = st.floats(-1e6, 1e6, width=32)
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=FLOATS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every storage."""
    torch.manual_seed(1)
    model = make_model(make_config(hidden_size=64, num_heads=4, ff_size=128), 400, 400)
    folder = tmp_path_factory.mktemp("stored")
    found = {storage: folder / storage for storage in STORAGES}
    for storage, path in found.items():
        path.mkdir()
        save_model(path, model, storage=storage)  # type: ignore[arg-type]
    return found


def size(folder: Path) -> int:
    return (folder / WEIGHTS_FILE).stat().st_size


@given(MATRICES)
def test_no_number_moves_by_more_than_half_a_scale(matrix: np.ndarray) -> None:
    values, scales = quantize(matrix)
    assert values.dtype == np.int8 and scales.dtype == np.float32
    moved = np.abs(dequantize(values, scales).astype(np.float64) - matrix)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    assert (moved <= largest / LARGEST * 0.5001 + 1e-44).all()
    assert (np.abs(values) <= LARGEST).all()
    # Each row has a scale of its own: the largest of each is a whole number's limit.
    assert (np.abs(values).max(axis=1)[largest[:, 0] > 1e-30] == LARGEST).all()


def test_a_row_of_zeros_stays_zero_and_what_is_not_finite_is_refused() -> None:
    values, scales = quantize(np.zeros((2, 3), np.float32))
    assert not dequantize(values, scales).any() and np.isfinite(scales).all()
    for broken in (np.nan, np.inf):
        with pytest.raises(ModelFolderError, match="not finite cannot be stored in int8"):
            quantize(np.array([[1.0, broken]], np.float32))


def test_a_file_in_int8_is_a_quarter_and_in_bfloat16_a_half(folders: dict[str, Path]) -> None:
    whole = size(folders["float32"])
    assert size(folders["int8"]) <= 0.3 * whole
    assert size(folders["bfloat16"]) <= 0.55 * whole


@pytest.mark.parametrize(("storage", "bound"), [("bfloat16", 2**-8), ("int8", 0.5001 / LARGEST)])
def test_what_is_loaded_is_float32_and_near(folders: dict[str, Path], storage: str, bound: float) -> None:
    exact = dict(load_model(folders["float32"])[0].named_parameters())
    model, document = load_model(folders[storage])
    assert document["storage"] == storage
    moved = 0
    for name, parameter in model.named_parameters():
        original = exact[name]
        assert parameter.dtype == torch.float32
        if is_compressible(tuple(original.shape)):
            assert ((parameter - original).abs() <= bound * original.abs().amax(1, keepdim=True)).all(), name
            moved += int(not torch.equal(parameter, original))
        else:
            assert torch.equal(parameter, original), name
    assert moved > 10
    source, mask = make_source(4, 2)
    assert torch.isfinite(model(source, mask, source)).all()


@pytest.mark.parametrize("storage", STORAGES)
def test_numpy_alone_reads_the_same_numbers(folders: dict[str, Path], storage: str) -> None:
    weights = read_weights(folders[storage] / WEIGHTS_FILE)
    parameters = dict(load_model(folders[storage])[0].named_parameters())
    assert weights.keys() == parameters.keys()
    for name, weight in weights.items():
        assert np.array_equal(weight.float32(), parameters[name].detach().numpy()), name
    matrix = weights["decoder.layers.0.attention.query.weight"]
    assert (matrix.values.dtype == np.int8) == (matrix.scales is not None) == (storage == "int8")


def test_reading_needs_no_torch(folders: dict[str, Path]) -> None:
    program = (
        "import sys; from pathlib import Path; from pellucid.model.weights import read_weights; "
        f"read_weights(Path({str(folders['int8'] / WEIGHTS_FILE)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_unknown_storage_is_one_sentence(folders: dict[str, Path]) -> None:
    path = folders["int8"] / CONFIG_FILE
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "storage": "int4"}))
    with pytest.raises(ModelFolderError) as caught:
        load_model(folders["int8"])
    path.write_text(before)
    assert str(caught.value) == (
        f"{path}: storage 'int4' is not known: this pellucid reads float32, bfloat16, int8; "
        "use the pellucid that wrote it"
    )


def test_a_damaged_int8_file_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    content = (folders["int8"] / WEIGHTS_FILE).read_bytes()
    path = tmp_path / WEIGHTS_FILE
    for share in (0.0, 0.0005, 0.5, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelFolderError, match="damaged or cut short"):
            read_weights(path)
    for header in ("[]", '{"a": {"dtype": "I8", "shape": [0], "data_offsets": [-3, 0]}}', '{"a": 1}'):
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
        with pytest.raises(ModelFolderError, match="damaged or cut short"):
            read_weights(path)
    tensors = load_file(folders["int8"] / WEIGHTS_FILE)
    del tensors["decoder.layers.0.attention.query.weight.scales"]
    save_tensors(path, tensors)
    with pytest.raises(ModelFolderError, match=r"query\.weight is stored in int8 without a scale for each row"):
        read_weights(path)
