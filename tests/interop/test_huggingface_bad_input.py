"""Checkpoints that are not what they should be: one sentence for each, and nothing is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_twins import TEXTS, make_twin
from safetensors.torch import load_file, save_file

import pellucid
from pellucid.cli import main
from pellucid.errors import ConfigError, LengthError, MissingExtraError, ModelFolderError, PellucidError
from pellucid.interop.huggingface import hub

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    make_twin("marian", folder)
    return folder


@pytest.fixture
def folder(marian: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(marian, tmp_path / "copy"))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(folder: Path, kind: type[PellucidError] = ModelFolderError, **languages: str) -> str:
    with pytest.raises(kind) as caught:
        pellucid.load(folder, "cpu", **languages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_tensors_that_do_not_fit_are_listed_at_once(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.encoder.layers.0.fc1.weight"], tensors["model.decoder.layers.2.encoder_attn.k_proj.bias"]
        tensors["model.encoder.layers.9.fc1.weight"] = torch.zeros(2)
        tensors["model.encoder.layers.1.fc2.bias"] = torch.zeros(7)

    change_tensors(folder, change)
    assert refusal(folder) == (
        f"{folder / WEIGHTS}: weights do not fit config.json: "
        "model.encoder.layers.0.fc1.weight is missing; "
        "model.encoder.layers.1.fc2.bias has shape [7] where the config means [32]; "
        "model.decoder.layers.2.encoder_attn.k_proj.bias is missing; "
        "model.encoder.layers.9.fc1.weight is not part of this architecture"
    )


def test_a_table_made_by_a_formula_may_be_in_the_file(folder: Path) -> None:
    expected = pellucid.load(folder, "cpu").generate(TEXTS[:1])
    change_tensors(
        folder, lambda tensors: tensors.update({"model.encoder.embed_positions.weight": torch.zeros(64, 32)})
    )
    assert pellucid.load(folder, "cpu").generate(TEXTS[:1]) == expected


def test_a_missing_bias_on_the_logits_is_zero(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("final_logits_bias"))
    assert not pellucid.load(folder, "cpu").model.output.bias.any()


def test_an_output_matrix_of_its_own_is_believed(folder: Path) -> None:
    shared = load_file(folder / WEIGHTS)["model.shared.weight"]
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": shared + 1}))
    model = pellucid.load(folder, "cpu").model
    assert model.config.tied_embeddings == "inputs"
    assert torch.equal(model.output.weight, shared + 1)
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": shared.clone()}))
    assert pellucid.load(folder, "cpu").model.config.tied_embeddings == "three"


def test_an_untied_config_wants_an_output_matrix(folder: Path) -> None:
    change_json(folder / "config.json", tie_word_embeddings=False)
    assert refusal(folder).endswith("weights do not fit config.json: lm_head.weight is missing")


@pytest.mark.parametrize("kind", ["nllb-moe", "xglm", None])
def test_an_unsupported_family_names_those_that_are(folder: Path, kind: str | None) -> None:
    change_json(folder / "config.json", model_type=kind)
    message = refusal(folder)
    assert message.startswith(
        f"{folder / 'config.json'}: models of type {kind!r} are not supported; supported: marian ("
    )
    for name in ("bart", "mbart", "m2m_100", "pegasus", "t5, mt5"):
        assert f"; {name} (" in message


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"activation_function": "mish"}, "the activation function mish is not supported; supported: relu, gelu, "),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads (4) and decoder_attention_heads (2) differ"),
        ({"vocab_size": None}, "vocab_size must be a positive whole number, not None"),
        ({"d_model": "wide"}, "hidden_size = 'wide': input should be a valid integer"),
    ],
)
def test_a_variant_that_is_not_supported_is_named(folder: Path, values: dict[str, Any], reason: str) -> None:
    change_json(folder / "config.json", **values)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: {reason}")


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json"])
def test_a_missing_tokenizer_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == (
        f"{folder}: {name} missing of the tokenizer; the folder is incomplete: download all of it"
    )


def test_a_tokenizer_of_another_checkpoint_is_refused(folder: Path) -> None:
    numbers = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**numbers, "more": len(numbers)}))
    size = len(numbers)
    assert refusal(folder) == (
        f"{folder}: the source tokenizer has {size + 1} tokens and the model {size}: "
        "the files are not of the same checkpoint"
    )


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "vocab.json", "source.spm", WEIGHTS])
def test_half_a_file_is_noticed(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    message = refusal(folder)
    assert "damaged" in message or "cut short" in message or "truncated" in message or "not valid JSON" in message


def test_no_weights_and_weights_of_other_programs(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "tf_model.h5")
    assert refusal(folder) == (
        f"{folder}: there is neither model.safetensors nor pytorch_model.bin (only tf_model.h5, which are not read); "
        "the folder is incomplete: download all of it"
    )


def test_weights_in_shards_are_read_and_a_missing_one_is_named(folder: Path) -> None:
    expected = pellucid.load(folder, "cpu").generate(TEXTS)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, folder / file)
    places = {name: file for file, chosen in parts.items() for name in chosen}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    assert pellucid.load(folder, "cpu").generate(TEXTS) == expected
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert refusal(folder) == (
        f"{folder}: model-00002-of-00002.safetensors missing of 2 files of weights; "
        "the folder is incomplete: download all of it"
    )


def test_pickled_weights_are_read_without_running_anything(folder: Path) -> None:
    expected = pellucid.load(folder, "cpu").generate(TEXTS)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert pellucid.load(folder, "cpu").generate(TEXTS) == expected


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_pickles_that_hold_code_are_refused_and_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / WEIGHTS).unlink()
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    assert "it holds more than tensors" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    refusal(folder)
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    assert "expected tensors by name" in refusal(folder)
    assert not (folder / "ran").exists()


def test_a_source_longer_than_a_learned_table(tmp_path: Path) -> None:
    make_twin("bart", tmp_path, max_position_embeddings=10)
    model = pellucid.load(tmp_path, "cpu")
    with pytest.raises(LengthError, match=r"source 2: a sequence of \d+ tokens does not fit the 10 learned positions"):
        model.generate(["the", " ".join(TEXTS)])


def test_languages_where_they_do_not_belong_or_are_not_known(folder: Path, tmp_path: Path) -> None:
    assert refusal(folder, ConfigError, source_language="en").endswith("has no codes for languages: leave source and "
                                                                      "target language away")  # fmt: skip
    assert "no token for the language 'deux'; near: deu" in refusal(folder, ConfigError, target_language="deux")
    assert pellucid.load(folder, "cpu", target_language="deu").source_tokenizer.pieces(
        pellucid.load(folder, "cpu", target_language="deu")._encode_source(TEXTS[0], 1)
    )[0] == ">>deu<<"  # fmt: skip
    many = tmp_path / "m2m100"
    many.mkdir()
    make_twin("m2m100", many)
    waiting = pellucid.load(many, "cpu")
    for call in (lambda: waiting.generate(TEXTS), lambda: waiting.score(TEXTS, TEXTS), lambda: waiting.inspect("she")):
        with pytest.raises(ConfigError, match=r"writes many languages: name one with target_language .*, e\.g\. de$"):
            call()
    assert main(["info", str(many)]) == 0
    assert main(["convert", str(many), str(tmp_path / "out")]) == 0
    with pytest.raises(ConfigError, match="many languages: convert it again and name one"):
        pellucid.load(tmp_path / "out", "cpu").generate(TEXTS)
    assert "no token for the language 'german'" in refusal(many, ConfigError, target_language="german")


def test_commands_answer_with_one_sentence_and_write_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_json(folder / "config.json", model_type="xglm")
    for command in (["convert", str(folder), str(tmp_path / "out")], ["info", str(folder)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("pellucid: error: ")
        assert error.count("\n") == 1
    assert main(["convert", str(folder), str(tmp_path)]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


# -- names on the hub


def test_only_what_can_be_nothing_else_is_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path, expected in {
        "owner/name": True, "Helsinki-NLP/opus-mt-en-de": True, "runs/x": False, "name": False, "./owner/name": True,
        "a/b/c": False, "/owner/name": False, "../x": False,
        "owner/name@v1": True, "owner/name@refs/pr/1": True, "runs/x@v1": False,
    }.items():  # fmt: skip
        assert hub.is_hub_name(Path(path)) == expected, path


def test_a_hub_that_cannot_be_reached_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(library, "list_repo_files", fail)
    monkeypatch.setattr(library, "snapshot_download", fail)
    with pytest.raises(ModelFolderError) as caught:
        pellucid.load("nobody/nothing")
    assert str(caught.value) == (
        "nobody/nothing: no such model folder, and it cannot be fetched from the Hugging Face hub (no route to host): "
        "check the name and the network, or download it elsewhere and give the folder"
    )


def test_a_name_on_the_hub_is_fetched(marian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str | None, list[str]]] = []
    files = ["model.safetensors", "pytorch_model.bin", "config.json", "onnx/config.json", "onnx/model.safetensors"]
    cached: list[Path] = []

    def download(
        name: str, revision: str | None, allow_patterns: Sequence[str] = (), local_files_only: bool = False
    ) -> str:
        if local_files_only:
            return str(cached[0])
        asked.append((name, revision, [*allow_patterns]))
        return str(marian)

    monkeypatch.setattr(library, "list_repo_files", lambda name, revision: files)
    monkeypatch.setattr(library, "snapshot_download", download)
    expected = pellucid.load(marian, "cpu").generate(TEXTS)
    assert pellucid.load("owner/name@v1.0", "cpu").generate(TEXTS) == expected
    small = ["config.json"]
    assert asked == [("owner/name", "v1.0", small), ("owner/name", "v1.0", [*small, "model.safetensors"])]
    (tmp_path / "config.json").write_text("{}")
    cached.append(tmp_path)  # cut off: no weights
    pellucid.load("owner/name", "cpu")
    assert len(asked) == 4
    cached[0] = marian
    assert pellucid.load("owner/name", "cpu").generate(TEXTS) == expected
    assert len(asked) == 4  # nobody was asked


def test_libraries_that_are_not_installed_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bart = tmp_path / "bart"
    bart.mkdir()
    make_twin("bart", bart)
    for name in ("tokenizers", "huggingface_hub"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert "pip install 'pellucid[huggingface]'" in refusal(bart, MissingExtraError)
    assert "pip install 'pellucid[huggingface]'" in refusal(Path("nobody/nothing"), MissingExtraError)
    pellucid.load(folder, "cpu")  # SentencePiece alone needs neither
