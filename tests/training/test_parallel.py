"""Several processes make the run that one makes, and end together, saying why once."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import workers
from pellucid.config import ModelConfig, load_config, parse_config
from pellucid.data.batches import Batch, collate
from pellucid.errors import ConfigError
from pellucid.experiment import train
from pellucid.model.layers import Dropout
from pellucid.model.randomness import dropout, rows_of_batch
from pellucid.model.transformer import EncoderDecoder
from pellucid.training.log import Silent
from pellucid.training.parallel import Processes, _part, own_rows
from pellucid.training.trainer import batch_loss
from runs import Ending, full_settings, traces
from toys import write_toy_corpus

NEAR = 1e-5

# -- random numbers of some rows


@pytest.mark.parametrize(("total", "size", "passes"), [(7, 2, 1), (5, 3, 1), (2, 3, 1), (7, 2, 2), (5, 3, 2)])
@pytest.mark.parametrize("how", ["own", "pytorch"])
def test_a_row_gets_the_random_numbers_of_its_place_in_the_batch(total: int, size: int, passes: int, how: str) -> None:
    layer = Dropout(0.3) if how == "own" else lambda x: dropout(x, 0.3)
    x = torch.randn(total, 3, 5)
    torch.manual_seed(3)
    whole = layer(torch.cat([x] * passes)).unflatten(0, (passes, total))
    after = torch.get_rng_state()
    for rank in range(size):
        torch.manual_seed(3)
        own = own_rows(total, rank, size)
        with rows_of_batch(total, own):
            found = layer(torch.cat([x[own]] * passes))
        assert torch.equal(found, whole[:, own].flatten(0, 1))
        assert torch.equal(torch.get_rng_state(), after)


def test_every_row_is_read_by_one_process() -> None:
    for total, size in ((1, 2), (2, 2), (7, 3), (3, 8)):
        read = [row for rank in range(min(size, total)) for row in range(total)[own_rows(total, rank, size)]]
        assert sorted(read) == list(range(total))
        assert all(len(range(total)[own_rows(total, rank, size)]) >= 1 for rank in range(size))


@pytest.mark.parametrize("r_drop", [0.0, 5.0])
def test_the_gradients_of_the_parts_add_up_to_those_of_the_batch(r_drop: float) -> None:
    torch.manual_seed(1)
    config = ModelConfig(preset="tiny", dropout=0.2, attention_dropout=0.2, ff_dropout=0.2, word_dropout=0.2)
    model = EncoderDecoder(config, 30, 30).train()
    rows = [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14], [15]]
    for count in (5, 2):
        batch = collate(rows[:count], rows[:count])

        def gradients(parts: list[tuple[Batch, slice]], total: int = count) -> tuple[float, list[Tensor]]:
            model.zero_grad()
            summed = 0.0
            for part, own in parts:
                torch.manual_seed(2)
                with rows_of_batch(total, own):
                    loss, _ = batch_loss(model, part, 0.1, r_drop=r_drop)
                loss.backward()
                summed += loss.item()
            return summed, [p.grad.clone() for p in model.parameters() if p.grad is not None]

        whole, expected = gradients([(batch, slice(None))])
        shares = [own_rows(count, rank, 3) for rank in range(3)]
        parts = [(_part(batch, own, rank < count), own) for rank, own in enumerate(shares)]
        assert sum(part.num_tokens for part, _ in parts) == batch.num_tokens
        found, added = gradients(parts)
        assert found == pytest.approx(whole, rel=1e-6)
        for ours, theirs in zip(added, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# -- whole runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_toy_corpus(tmp_path_factory.mktemp("small"), pairs=120)
    lines = (folder / "train.src").read_text(encoding="utf-8").splitlines()
    (folder / "train.src").write_text("".join(f"{line}.\n" for line in lines), encoding="utf-8")
    return folder


def narrow_settings(corpus: Path, output: Path) -> dict[str, Any]:
    """Batches of one or two rows, and what reads a batch more than once."""
    settings = full_settings(corpus, output, batch_tokens=16, max_updates=8, accumulate=3, r_drop=5.0)
    settings["model"] |= {"word_dropout": 0.2}
    return settings


def started_settings(corpus: Path, output: Path) -> dict[str, Any]:
    """From a model that the first process alone reads."""
    settings = full_settings(corpus, output, max_updates=4, init_from=str(output.parent / "one" / "best"))
    del settings["tokenizer"], settings["model"]
    return settings


def adapted_settings(corpus: Path, output: Path) -> dict[str, Any]:
    """Adapters, beside a model that the first process alone reads."""
    settings = started_settings(corpus, output)
    settings["training"] |= {"lora": {"rank": 2, "dropout": 0.1}, "scheduled_sampling": 0.3}
    return settings


def frozen_settings(corpus: Path, output: Path) -> dict[str, Any]:
    settings = started_settings(corpus, output)
    settings["training"] |= {"freeze": ["encoder.*"]}
    return settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Runs of one process and of two, undisturbed and not."""
    base = tmp_path_factory.mktemp("runs")
    settings_of_one = {"one": full_settings, "narrow-one": narrow_settings, "started-one": started_settings}
    settings_of_one |= {"adapted-one": adapted_settings, "frozen-one": frozen_settings}
    for name, settings in settings_of_one.items():
        train(parse_config(settings(corpus, base / name)), Silent())
    train(parse_config(full_settings(corpus, base / "from-one")), Ending(5, signal.SIGINT))
    two = [full_settings(corpus, base / name) for name in ("two", "stopped", "from-two", "from-one")]
    reports = workers.train_with(
        2,
        {"settings": two[0]},
        {"settings": two[1], "stop": 3, "rank": 1},
        {"settings": two[1]},
        {"settings": two[2], "stop": 7, "rank": 0},
        {"settings": two[3]},
        {"settings": narrow_settings(corpus, base / "narrow-two")},
        {"settings": started_settings(corpus, base / "started-two")},
        {"settings": adapted_settings(corpus, base / "adapted-two"), "stop": 2, "rank": 0},
        {"settings": adapted_settings(corpus, base / "adapted-two")},
        {"settings": frozen_settings(corpus, base / "frozen-two")},
        {"settings": two[0]},  # has finished
        {"settings": full_settings(corpus, base / "drifting"), "drift": 1},
    )
    (base / "reports.json").write_text(json.dumps(reports))
    train(parse_config(two[2]), Silent())
    return base


def assert_near(found: Path, expected: Path) -> None:
    """The same records but for rounding, and the same weights."""
    ours, theirs = traces(found)["metrics"], traces(expected)["metrics"]
    assert [list(record) for record in ours] == [list(record) for record in theirs]
    for record, other in zip(ours, theirs, strict=True):
        for name, value in record.items():
            wanted = other[name]
            assert value == (pytest.approx(wanted, rel=NEAR) if isinstance(wanted, float) else wanted), (name, record)
    file = "adapter.safetensors" if (expected / "last" / "adapter.safetensors").exists() else "model.safetensors"
    weights = [load_file(folder / "last" / file) for folder in (found, expected)]
    for name, tensor in weights[0].items():
        # Attention does not depend on the keys' bias: its gradient is rounding errors, which Adam makes large.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_processes_make_the_loss_curve_of_one(runs: Path) -> None:
    assert_near(runs / "two", runs / "one")
    losses = [record["loss"] for record in traces(runs / "two")["metrics"] if record["kind"] == "train"]
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_batches_of_fewer_rows_than_processes_and_double_passes_do_too(runs: Path) -> None:
    assert_near(runs / "narrow-two", runs / "narrow-one")


def test_what_the_first_process_starts_from_all_start_from(runs: Path) -> None:
    assert_near(runs / "started-two", runs / "started-one")


@pytest.mark.parametrize("what", ["adapted", "frozen"])
def test_a_part_is_trained_by_two_processes_as_by_one(what: str, runs: Path) -> None:
    """The adapters' run was stopped in between, so that the base comes again from the first process alone."""
    assert_near(runs / f"{what}-two", runs / f"{what}-one")
    names = {path.name for path in (runs / "adapted-two" / "last").iterdir()}
    assert {"adapter.safetensors", "adapter_config.json"} <= names and "model.safetensors" not in names


def test_weights_that_drift_apart_are_noticed_and_the_first_ones_taken(runs: Path) -> None:
    *lines, drifting = json.loads((runs / "reports.json").read_text())[0]["lines"]
    warning = "warning: update 4: the weights of the 2 processes had drifted apart"
    assert [line for line in drifting if "drifted" in line] == [line for line in drifting if line.startswith(warning)]
    assert sum(line.startswith(warning) for line in drifting) == 1
    assert not any("drifted" in line for each in lines for line in each)


def test_a_signal_to_any_process_stops_all_behind_the_same_update(runs: Path) -> None:
    reports = json.loads((runs / "reports.json").read_text())
    assert reports[0]["updates"] == reports[1]["updates"]
    whole, stopped, *_ = reports[0]["updates"]
    assert whole == 12 and stopped in (4, 5)  # the signal comes behind update 3; all are told in the next exchange


def test_going_on_with_as_many_processes_is_exact(runs: Path) -> None:
    assert traces(runs / "stopped") == traces(runs / "two")


def test_going_on_with_another_number_of_processes_is_exact_but_for_rounding(runs: Path) -> None:
    assert json.loads((runs / "from-two" / "run.json").read_text())["processes"] == 1
    assert_near(runs / "from-two", runs / "two")
    assert json.loads((runs / "from-one" / "run.json").read_text())["processes"] == 2
    assert_near(runs / "from-one", runs / "one")


def test_only_the_first_process_writes(runs: Path) -> None:
    first, second = json.loads((runs / "reports.json").read_text())
    assert len(first["written"]) > 100
    assert second["written"] == []


def test_threads_that_were_left_open_are_decided_anew_for_another_number_of_processes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pellucid import experiment

    monkeypatch.setattr(experiment, "set_threads", lambda threads: threads or 6)
    config = parse_config(full_settings(corpus, tmp_path, threads=None, max_updates=2))
    train(config, Ending(1, signal.SIGINT))
    marker = tmp_path / "run.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "processes": 3}))
    monkeypatch.setattr(experiment, "set_threads", lambda threads: threads or 5)
    train(config, Silent())
    assert load_config(tmp_path / "config.yaml").training.threads == 5


# -- ends


def test_an_error_in_one_process_ends_both_and_is_said_once(corpus: Path, tmp_path: Path) -> None:
    """The loss of one process's rows is no number: both see the sum."""
    job = {"settings": full_settings(corpus, tmp_path), "spoil": 1}
    results = workers.finish(workers.start([sys.executable, workers.__file__, json.dumps([job])], 2))
    said = [error for _, _, error in results]
    assert all(status != 0 for status, _, _ in results), results
    assert sum("TrainingError: update 2: the loss (nan)" in error for error in said) == 1, said
    assert sum("the run has ended; another process says why" in error for error in said) == 1, said


def test_the_command_line_says_what_is_wrong_once(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pellucid", "train", f"data.dir={tmp_path}", f"output={tmp_path / 'run'}"]
    command += ["data.train.source=a", "data.train.target=b"]
    results = workers.finish(workers.start(command, 2))
    assert [status for status, _, _ in results] == [2, 2], results
    assert [out for _, out, _ in results] == ["", ""]
    said = "".join(error for _, _, error in results)
    assert said.count("pellucid: error: ") == 1 and "Traceback" not in said, said
    assert f"{tmp_path / 'a'}" in said


def test_a_device_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Processes(1, 2, 1, 2)
    assert two.device_name("cpu") == "cpu"
    for name in ("cuda:0", "mps"):
        with pytest.raises(ConfigError, match=f"^training.device = {name}: 2 processes cannot share one device: "):
            two.device_name(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes on this machine, which has 1 CUDA devices"):
        two.device_name("auto")
    assert Processes().device_name("cuda:0") == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert two.device_name("auto") == "cuda:1"
