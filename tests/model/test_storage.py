"""Model folders: a round trip changes no bit, and every broken folder is refused with one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import CONFIGS, VOCAB, make_config, make_model, make_source
from safetensors.torch import load_file, save_file

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError
from pellucid.model.storage import CONFIG_FILE, WEIGHTS_FILE, is_model_folder, load_model, save_model, save_tensors

NORM = "encoder.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model folder."""
    save_model(tmp_path, make_model(make_config()))
    return tmp_path


def change_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG_FILE
    document = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in document.items() if value != "removed"}))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("config", CONFIGS[::4])
def test_a_round_trip_changes_no_bit(config: ModelConfig, tmp_path: Path) -> None:
    target_vocab = VOCAB if config.one_vocabulary else VOCAB + 2
    model = make_model(config, VOCAB, target_vocab)
    save_model(tmp_path, model)
    loaded, document = load_model(tmp_path)
    assert loaded.config == config
    assert document["model"] == config.model_dump(mode="json")
    assert not loaded.training
    assert (loaded.source_vocab_size, loaded.target_vocab_size) == (VOCAB, target_vocab)
    saved, found = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    source, mask = make_source(4, 2)
    target = torch.randint(0, VOCAB, (2, 5))
    assert torch.equal(model(source, mask, target), loaded(source, mask, target))


@pytest.mark.parametrize(("tied", "matrices"), [("three", 1), ("two", 2), ("inputs", 2), ("none", 3)])
def test_tied_matrices_are_written_once_and_tied_again(tied: str, matrices: int, tmp_path: Path) -> None:
    save_model(tmp_path, make_model(make_config(tied_embeddings=tied)))
    shapes = [tuple(tensor.shape) for tensor in load_file(tmp_path / WEIGHTS_FILE).values()]
    assert shapes.count((VOCAB, 16)) == matrices
    model, _ = load_model(tmp_path)
    assert (model.output.weight is model.decoder.embedder.embedding.weight) == (tied in ("three", "two"))


def test_other_weights_and_further_entries_may_be_given(tmp_path: Path) -> None:
    model = make_model(make_config())
    other = {name: parameter.detach() + 1 for name, parameter in model.named_parameters()}
    save_model(tmp_path, model, other, {"decoding": {"beam_size": 3}})
    loaded, document = load_model(tmp_path)
    assert all(torch.equal(parameter, other[name]) for name, parameter in loaded.named_parameters())
    assert document["decoding"] == {"beam_size": 3}
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}


def test_a_model_folder_is_known_by_its_config(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert is_model_folder(folder)
    assert not is_model_folder(tmp_path_factory.mktemp("empty"))
    assert not is_model_folder(folder / "missing")


def test_everything_wrong_with_the_tensors_is_in_one_message(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    del tensors["encoder.layers.0.attention.key.weight"], tensors["decoder.norm.bias"]
    save_file({**tensors, "one.more": torch.zeros(2), NORM: tensors[NORM].view(4, 4)}, folder / WEIGHTS_FILE)
    message = refusal(folder)
    assert "encoder.layers.0.attention.key.weight is missing" in message
    assert "decoder.norm.bias is missing" in message
    assert "one.more is not part of this architecture" in message
    assert f"{NORM} has shape [4, 4] where the config means [16]" in message


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    change_config(folder, model=make_config(hidden_size=8).model_dump(mode="json"))
    message = refusal(folder)
    tensors = load_file(folder / WEIGHTS_FILE).values()
    assert message.count("has shape") == sum(16 in tensor.shape for tensor in tensors)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "damaged or cut short" in refusal(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    assert f"{WEIGHTS_FILE} is missing" in refusal(folder)
    (folder / CONFIG_FILE).unlink()
    assert f"it has no {CONFIG_FILE}" in refusal(folder)
    folder.rmdir()
    assert "no such model folder" in refusal(folder)


def test_a_file_is_no_model_folder(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_text("{}")
    assert f"it has no {CONFIG_FILE}" in refusal(path)


def test_a_folder_in_the_place_of_the_weights_is_refused(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).mkdir()
    assert f"{WEIGHTS_FILE} is missing" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"format: pellucid"])
def test_a_config_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    assert "not valid JSON" in refusal(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": "marian"}'])
def test_the_config_of_something_else_is_refused(folder: Path, content: str) -> None:
    (folder / CONFIG_FILE).write_text(content)
    assert "not the config of a pellucid model" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"version": 2}, "format version 2, this pellucid reads 1"),
        ({"version": "removed"}, "format version None"),
        ({"model": "removed"}, "the entry 'model' is missing"),
        ({"target_vocab_size": "removed"}, "the entry 'target_vocab_size' is missing"),
        ({"source_vocab_size": 0}, "must be positive whole numbers"),
        ({"source_vocab_size": "11"}, "must be positive whole numbers"),
        ({"source_vocab_size": 12}, "one vocabulary, not two of 12 and 11"),
        ({"model": {"num_heads": 3}}, "hidden_size (256) must be a multiple of num_heads (3)"),
        ({"model": {"hidden_sise": 16}}, "did you mean hidden_size?"),
        ({"model": {"norm": "batchnorm"}}, "norm = 'batchnorm'"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(folder: Path, values: dict[str, Any], sentence: str) -> None:
    change_config(folder, **values)
    assert sentence in refusal(folder)


def test_a_half_copied_folder_is_refused_and_a_whole_copy_is_not(folder: Path) -> None:
    copy = folder / "copy"
    copy.mkdir()
    shutil.copy(folder / CONFIG_FILE, copy)
    assert "the folder is incomplete" in refusal(copy)
    shutil.copy(folder / WEIGHTS_FILE, copy)
    load_model(copy)


def test_tensors_of_every_type_are_written_as_the_library_reads_them(tmp_path: Path) -> None:
    tensors = {
        "wide": torch.randn(3, 5, dtype=torch.float64), "scalar": torch.tensor(7), "empty": torch.zeros(0, 3),
        "half": torch.randn(5).bfloat16(), "ä": torch.ones(3, dtype=torch.bool), "rows": torch.randn(4, 6).T,
        "bytes": torch.arange(7, dtype=torch.uint8),
    }  # fmt: skip
    save_tensors(tmp_path / "x", tensors, {"format": "pt"})
    found = load_file(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_loading_draws_no_numbers_and_copies_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        assert tensor.is_meta, "numbers are drawn"
        return tensor

    monkeypatch.setattr(torch.nn.init, "xavier_uniform_", draw)
    monkeypatch.setattr(torch.nn.init, "normal_", draw)
    state = torch.get_rng_state()
    model, _ = load_model(folder)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_loading_does_without_pytorchs_compiler(folder: Path) -> None:
    code = "import sys; from pathlib import Path; from pellucid.model.storage import load_model; "
    code += "load_model(Path(sys.argv[1])); print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"  # to draw numbers that nobody needs it would take 1.5 s
