"""Fine-tuning a part: what is frozen stays to the last bit, adapters start as nothing, and both go on exactly."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pellucid
import runs
from pellucid.config import ModelConfig, TrainingConfig, load_config, parse_config
from pellucid.errors import ConfigError, ModelFolderError
from pellucid.experiment import train
from pellucid.model.lora import LoraLinear, merge
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.log import Silent
from pellucid.training.loss import token_loss
from pellucid.training.tuning import check_tuning, parameter_names, tune
from runs import Ending, full_settings, traces
from toys import toy_settings

SMALL = ModelConfig(hidden_size=16, encoder_layers=1, decoder_layers=2, num_heads=2, ff_size=32)
TARGETS = ("attention.query", "attention.value", "cross_attention.query", "cross_attention.value")


class Hearing:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, task: str, done: int, total: int) -> None:
        pass


def tuned(start: Path, corpus: Path, output: Path, **training: Any) -> dict[str, Any]:
    """Settings with everything that is random, from a model that is there."""
    settings = full_settings(corpus, output, **{"max_updates": 6, "init_from": str(start), **training})
    del settings["tokenizer"], settings["decoding"]
    settings["data"].pop("drop_final_punctuation")
    settings["model"] = {name: value for name, value in settings["model"].items() if "dropout" in name}
    return settings


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in pellucid.load(folder, "cpu").model.named_parameters()}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.arange(4, 16).view(2, 6)
    return tokens, torch.ones_like(tokens, dtype=torch.bool), tokens.flip(1)


# -- freezing


def test_what_is_frozen_stays_bit_for_bit_and_has_no_state(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    patterns = ["encoder.layers.*", "*embedding*"]
    hearing = Hearing()
    train(parse_config(tuned(tiny_run, toy_corpus, tmp_path, freeze=patterns)), hearing)
    before, after = weights(tiny_run), weights(tmp_path / "last")
    frozen = {name for name in before if name.startswith("encoder.layers.") or "embedding" in name}
    assert 0 < len(frozen) < len(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == before.keys() - frozen
    state = load_file(tmp_path / "last" / "training.safetensors")
    assert {name.partition(".")[2] for name in state if name != "random"} == changed
    trained = sum(before[name].numel() for name in changed)
    total = sum(tensor.numel() for tensor in before.values())
    said = (
        f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%}): {len(frozen)} of {len(before)} tensors"
    )
    assert any(line.startswith(said) for line in hearing.lines), hearing.lines


def test_frozen_parameters_get_no_gradient() -> None:
    model = EncoderDecoder(SMALL, 20, 20)
    tune(model, TrainingConfig(freeze=("encoder.layers.*", "*.norm.*")))
    model(*batch()).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name in without if not name.startswith("encoder.layers.")} == {
        name for name, _ in model.named_parameters() if ".norm." in name and not name.startswith("encoder.layers.")
    }


def test_a_frozen_output_matrix_changes_no_other_gradient() -> None:
    hidden, weight = torch.randn(70, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    gradients = []
    for frozen in (False, True):
        hidden.grad = weight.grad = None
        weight.requires_grad_(not frozen)
        token_loss(hidden, weight, torch.arange(70) % 20, 0.1)[0].backward()
        assert (weight.grad is None) == frozen
        gradients.append(hidden.grad)
    assert gradients[0] is not None and torch.equal(*gradients)


@pytest.mark.parametrize("name", ["encoder.embedder.embedding.weight", "decoder.embedder.*.weight", "output.weight"])
def test_a_tied_matrix_is_frozen_by_any_of_its_names(name: str) -> None:
    model = EncoderDecoder(SMALL, 20, 20)
    tune(model, TrainingConfig(freeze=(name,)))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["encoder.embedder.embedding.weight"]
    assert parameter_names(model)["encoder.embedder.embedding.weight"] == [
        "decoder.embedder.embedding.weight",
        "output.weight",
    ]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            {"freeze": ["encoder.layer.*"]},
            "encoder.layer.* matches no parameter; near it: encoder.layers.",
        ),
        ({"freeze": ["*", "output"]}, "training.freeze: output matches no parameter; near it: "),
        ({"freeze": ["encoder.*", "decoder.*"]}, "encoder.*, decoder.* freezes every parameter"),
        ({"lora": {"targets": ["*.q_proj"]}}, "training.lora.targets: *.q_proj matches no linear layer"),
        ({"lora": {"targets": ["output"]}}, "output matches no linear layer of the encoder or the decoder; near it: "),
        ({"lora": {}, "freeze": ["encoder.*"]}, "with lora all but the adapters is frozen: leave freeze away"),
        ({"lora": {}, "init_from": None}, "lora adapts a trained model: say which by init_from"),
    ],
)
def test_patterns_that_cannot_be_meant(
    training: dict[str, Any], said: str, tiny_run: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(parse_config(tuned(tiny_run, toy_corpus, tmp_path / "run", **training)), Silent())
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_patterns_are_looked_at_without_numbers_drawn() -> None:
    before = torch.get_rng_state()
    check_tuning(SMALL, TrainingConfig(freeze=("encoder.*",)))
    check_tuning(SMALL, TrainingConfig(init_from="x", lora={"targets": ["*.up"]}))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ConfigError, match=r"near it: .*feed_forward\.up"):
        check_tuning(SMALL, TrainingConfig(init_from="x", lora={"targets": ["*.feedforward.up"]}))


# -- adapters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_with_new_adapters_every_logit_is_the_bases_own(dtype: torch.dtype) -> None:
    model = EncoderDecoder(SMALL, 20, 20).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        expected = model(*batch())
        tune(model, TrainingConfig(init_from="x", lora={"targets": ["*"]}))
        assert torch.equal(model(*batch()), expected)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.lora_b.weight.fill_(0.1)
    assert not torch.equal(model(*batch()), expected)


@torch.no_grad()
def test_an_adapter_is_the_formula_of_the_paper() -> None:
    layer = torch.nn.Linear(12, 8)
    adapted = LoraLinear(layer, 3, 6.0)
    adapted.lora_b.weight.normal_()
    x = torch.randn(5, 12)
    a, b = adapted.lora_a.weight, adapted.lora_b.weight
    assert (a.shape, b.shape) == ((3, 12), (8, 3))
    torch.testing.assert_close(adapted(x), layer(x) + 6.0 / 3 * (x @ a.T) @ b.T)
    assert adapted.weight is layer.weight and adapted.bias is layer.bias


def test_training_draws_the_adapters_own_dropout() -> None:
    adapted = LoraLinear(torch.nn.Linear(64, 8), 3, 6.0, dropout=0.5)
    torch.nn.init.ones_(adapted.lora_b.weight)
    x = torch.ones(1, 64)
    assert not torch.equal(adapted(x), adapted(x))
    adapted.eval()
    assert torch.equal(adapted(x), adapted(x))


def test_only_the_attentions_queries_and_values_are_adapted_by_default() -> None:
    model = EncoderDecoder(SMALL, 20, 20)
    sentence = tune(model, TrainingConfig(init_from="x", lora={"rank": 2}))
    names = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    stacks = ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]
    assert names == {f"{s}.{t}" for s in stacks for t in TARGETS if "cross" not in t or s.startswith("decoder")}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{part}.weight" for name in names for part in ("lora_a", "lora_b")}
    assert sentence is not None and sentence.startswith(f"trained: {10 * 2 * 2 * 16:,} of ")
    model(*batch()).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained


@pytest.fixture(scope="module")
def adapted_run(tiny_run: Path, toy_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of adapters; not to be changed."""
    folder = tmp_path_factory.mktemp("adapted")
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1}
    assert train(parse_config(tuned(tiny_run, toy_corpus, folder, lora=lora)), Silent()).finished
    return folder


def test_a_run_holds_the_adapters_alone(adapted_run: Path, tiny_run: Path) -> None:
    for name in ("best", "last"):
        folder = adapted_run / name
        assert not (folder / "model.safetensors").exists()
        tensors = load_file(folder / "adapter.safetensors")
        about = json.loads((folder / "adapter_config.json").read_text())
        assert (about["base"], about["rank"], about["alpha"]) == (str(tiny_run), 4, 8.0)
        assert tensors.keys() == {
            f"{layer}.{part}.weight" for layer in about["layers"] for part in ("lora_a", "lora_b")
        }
        assert all(tensor.any() for tensor in tensors.values()), "training changed B, and A was drawn"
    state = load_file(adapted_run / "last" / "training.safetensors")
    assert all("lora_" in name for name in state if name != "random")
    assert load_config(adapted_run / "config.yaml").training.lora is not None


def test_only_the_adapted_matrices_differ_from_the_base(adapted_run: Path, tiny_run: Path) -> None:
    before, after = weights(tiny_run), weights(adapted_run)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith((".query.weight", ".value.weight"))}


@torch.no_grad()
def test_merged_is_unmerged(adapted_run: Path, tiny_run: Path) -> None:
    merged = pellucid.load(adapted_run, "cpu")
    unmerged = pellucid.load(tiny_run, "cpu").model
    tune(unmerged, TrainingConfig(init_from="x", lora={"rank": 4, "alpha": 8.0}))
    parameters = dict(unmerged.named_parameters())
    for name, tensor in load_file(adapted_run / "best" / "adapter.safetensors").items():
        parameters[name].copy_(tensor)
    ids = [merged.source_ids(text, merged.settings()) for text in ("ba da ga", "ta ra pa")]
    inputs = merged.batch(ids, ids)
    found, expected = (m(inputs.source, inputs.source_mask, inputs.target_in) for m in (merged.model, unmerged.eval()))
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("how", ["signal", "kill"])
@pytest.mark.parametrize("what", ["freeze", "lora"])
def test_an_interrupted_run_goes_on_exactly(
    how: str, what: str, adapted_run: Path, tiny_run: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1}
    choice: dict[str, Any] = {"lora": lora} if what == "lora" else {"freeze": ["decoder.layers.*"], "max_updates": 4}
    settings = tuned(tiny_run, toy_corpus, tmp_path / "run", save_every=1, **choice)
    if how == "signal":
        assert not train(parse_config(settings), Ending(3, signal.SIGINT)).finished
    else:
        command = [sys.executable, runs.__file__, json.dumps(settings), "3", "update"]
        assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert train(parse_config(settings), Silent()).finished
    whole = adapted_run
    if what == "freeze":
        whole = tmp_path / "whole"
        train(parse_config({**settings, "output": str(whole)}), Silent())
    assert traces(tmp_path / "run") == traces(whole)


def test_adapters_and_their_base_belong_together(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_run / "best", base)
    settings = tuned(base, toy_corpus, tmp_path / "run", lora={"rank": 2}, max_updates=2)
    train(parse_config(settings), Ending(1, signal.SIGINT))
    expected = weights(tmp_path / "run" / "last")

    base.rename(tmp_path / "moved")
    gone = rf"{tmp_path / 'run' / 'last'}: an adapter of {base}, and that cannot be loaded .*no such model folder.*base"
    with pytest.raises(ModelFolderError, match=gone):
        pellucid.load(tmp_path / "run", "cpu")
    with pytest.raises(ModelFolderError, match=gone):
        train(parse_config(settings), Silent())

    shutil.copytree(tmp_path / "moved", base)
    config = base / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    assert weights(tmp_path / "run" / "last").keys() == expected.keys(), "what is not a weight may change"
    shutil.copy(tiny_run / "last" / "model.safetensors", base)
    changed = load_file(base / "model.safetensors")
    pellucid.model.storage.save_tensors(
        base / "model.safetensors", {name: tensor * (1 + 1e-4) for name, tensor in changed.items()}
    )
    with pytest.raises(ModelFolderError, match=rf"an adapter of {base}, whose weights have changed since: SHA-256"):
        pellucid.load(tmp_path / "run", "cpu")
    with pytest.raises(ModelFolderError, match="whose weights have changed since"):
        train(parse_config(settings), Silent())

    about = tmp_path / "run" / "last" / "adapter_config.json"
    about.write_text(about.read_text().replace(str(base), str(tmp_path / "moved")))
    found = weights(tmp_path / "run" / "last")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("adapter_config.json", '"rank": 4', '"rank": 5', "adapters that do not fit adapter_config.json or the base"),
        ("adapter_config.json", ".query", ".key", r"do not fit .*attention\.key\.lora_a"),
        ("adapter_config.json", '"layers"', '"layer"', "not the config of an adapter; the file is damaged"),
        ("adapter_config.json", '"version": 1', '"version": 2', "not an adapter that this pellucid reads"),
        ("adapter.safetensors", None, None, "adapter.safetensors: not readable as safetensors"),
    ],
)
def test_damaged_adapters_are_named(
    file: str, old: str | None, new: str | None, said: str, adapted_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapted_run / "best", tmp_path / "model")
    path = tmp_path / "model" / file
    if old is None or new is None:
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ModelFolderError, match=said):
        pellucid.load(tmp_path / "model", "cpu")


def test_adapters_are_not_written_over_their_base(tiny_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    settings = tuned(tmp_path / "run", toy_corpus, tmp_path / "run", lora={})
    with pytest.raises(ConfigError, match="is in this folder, and adapters are of no use without the model"):
        train(parse_config(settings), Silent(), overwrite=True)
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_adapters_can_be_adapted(adapted_run: Path, toy_corpus: Path, tmp_path: Path) -> None:
    settings = tuned(adapted_run, toy_corpus, tmp_path, lora={"rank": 1, "targets": ["*.up"]}, max_updates=1)
    train(parse_config(settings), Silent())
    before, after = weights(adapted_run), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(".up.weight")}


def test_what_adapters_were_trained_beside_is_known_though_sums_are_rounded_otherwise_elsewhere(
    adapted_run: Path, toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tuned(adapted_run, toy_corpus, tmp_path, lora={"rank": 1, "targets": ["*.up"]}, max_updates=1)
    train(parse_config(settings), Silent())

    def rounded_otherwise(*given: Any) -> dict[str, torch.Tensor]:
        return {name: tensor * (1 + 2**-22) for name, tensor in merge(*given).items()}

    monkeypatch.setattr("pellucid.loading.merge", rounded_otherwise)
    assert weights(tmp_path)
    monkeypatch.undo()
    about = adapted_run / "best" / "adapter_config.json"
    before = about.read_text()
    try:
        about.write_text(before.replace('"alpha": 8.0', '"alpha": 9.0'))
        with pytest.raises(ModelFolderError, match="whose weights have changed since"):
            pellucid.load(tmp_path, "cpu")
    finally:
        about.write_text(before)


def test_toy_settings_say_what_tuned_takes_away() -> None:
    assert {"tokenizer", "decoding", "model"} <= toy_settings(Path()).keys()
