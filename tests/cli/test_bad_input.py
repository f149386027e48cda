"""What a user can get wrong, for every command: one sentence that says what and where, exit 2, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pellucid import files
from pellucid.config import parse_config
from pellucid.experiment import train
from pellucid.model.storage import save_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.training import trainer
from runs import Ending
from toys import Result, Run, toy_settings

GOOD = "{world}/text/good"
NOWHERE = "/sys/pellucid"  # nobody, not even root, may write there

# What is wrong with a file of text → what the sentence says.
TEXTS = {
    "missing": "missing: no such file",
    "folder": "folder: this is a folder, and a file is needed here",
    "empty": "empty: the file is empty",
    "binary": "binary: this is a binary file",
    "latin1": r"latin1, line 2: not UTF-8 \(byte 3 of the line is 0xE9\)",
    "utf16": "utf16: this looks like UTF-16 text",
    "zipped": r"zipped: this looks like a gzip file: its name must end in \.gz",
    "torn.gz": r"torn\.gz: the \.gz file is truncated or damaged",
}

# Commands that read text: the arguments, with {} for the file that is wrong.
READERS = {
    "train source": "train --source {} --target {good} --output {world}/run",
    "train target": "train --source {good} --target {} --output {world}/run",
    "train dev": "train --source {good} --target {good2} --dev-source {} --dev-target {good} --output {world}/run",
    "data check": "data check --source {good} --target {}",
    "translate": "translate --model {model} --input {}",
    "score sources": "score --model {model} {} {good}",
    "score targets": "score --model {model} {good} {}",
    "align sources": "align --model {model} {} {good}",
    "align targets": "align --model {model} {good} {}",
    "evaluate sources": "evaluate --model {model} {} {good}",
    "evaluate references": "evaluate --model {model} {good} {}",
}

# What is wrong with a model folder → what the sentence says.
MODELS = {
    "missing": "missing: no such model folder",
    "file": "file: a file, where a model folder is expected",
    "empty": r"empty: not a model folder \(it has no config.json\) and not a run folder",
    "no weights": "no weights: model.safetensors is missing; the folder is incomplete: copy it again",
    "no tokenizer": "no tokenizer/tokenizer/tokenizer.json: no such file: this folder holds no tokenizer",
    "half a tokenizer": "half a tokenizer/tokenizer/tokenizer.json: cannot be read as JSON: .* truncated or damaged",
    "changed tokenizer": r"tokenizer.json: the content is not what was saved \(SHA-256 differs\)",
    "half the weights": r"half the weights/model.safetensors: not readable as safetensors .* damaged or cut short",
    "changed shape": r"changed shape/model.safetensors: .*output.bias has shape \[31\] where the config means \[32\]",
    "lost tensor": r"lost tensor/model.safetensors: weights do not fit config.json: .* is missing",
    "half a config": "half a config/config.json: not valid JSON; the file is damaged",
    "strange config": r"strange config/config.json: not the config of a pellucid model",
    "later version": "later version/config.json: format version 99, this pellucid reads 1",
    "unknown setting": r"unknown setting/config.json: unknown setting hiden_size; did you mean hidden_size",
    "other architecture": r"other architecture/model.safetensors: weights do not fit config.json: .* has shape",
    "other vocabulary": "other vocabulary: the source tokenizer has 24 tokens and the model 25",
    "decoding": "decoding/config.json: beam_size = 0: ",
}

# Commands that read a model, with {} for the folder that is wrong.
LOADERS = {
    "translate": "translate --model {} ba",
    "score": "score --model {} {good} {good}",
    "align": "align --model {} {good} {good}",
    "evaluate": "evaluate --model {} {good} {good}",
    "info": "info {}",
}

OTHERS = [
    # settings of generation
    ("translate -m {model} --beam-size 0 ba", "beam_size = 0: .*greater than or equal to 1"),
    ("translate -m {model} --beam-size 9999 ba", "beam_size = 9999: .*less than or equal to 1024"),
    ("translate -m {model} --n-best 3 ba", r"n_best \(3\) must not exceed beam_size \(2\): raise beam_size or lower"),
    ("translate -m {model} --n-best 0 ba", "n_best = 0: "),
    ("translate -m {model} --max-length 0 ba", "max_length = 0: .*greater than or equal to 1"),
    ("translate -m {model} --max-length-extra 0 ba", "max_length_extra = 0: "),
    ("translate -m {model} --max-length-ratio -1 ba", "max_length_ratio = -1.0: "),
    ("translate -m {model} --length-penalty gnm ba", "length_penalty = 'gnm': .*'gnmt'"),
    ("translate -m {model} --length-alpha nan ba", "length_alpha = nan: .*finite"),
    ("translate -m {model} --batch-size 0 ba", "batch_size = 0: "),
    ("translate -m {model} --threads 0 ba", "training.threads = 0: "),
    ("translate -m {model} --device gpu ba", "training.device = 'gpu': "),
    ("translate -m {model} --device cuda:99 ba", "device = 'cuda:99': not available here"),
    ("score -m {model} --length-alpha 11 {good} {good}", "length_alpha = 11.0: "),
    ("evaluate -m {model} --beam-size 0 {good} {good}", "beam_size = 0: "),
    ("evaluate -m {model} --max-length 0 {good} {good}", "max_length = 0: "),
    ("evaluate -m {model} --metric blue {good} {good}", "unknown metric 'blue': choose from bleu, chrf, wer, ser"),
    ("evaluate -m {model} --bleu-tokenize 14a {good} {good}", "bleu_tokenize = '14a': choose one of auto, 13a"),
    # which texts
    ("translate -m {model} --input {good} ba", "texts are given both as arguments and with --input: give one"),
    ("translate -m {model} ba \udcff", "text 2 of the command line is not UTF-8"),
    ("score -m {model} {good} {short}", "good has 3 lines and .*short has 2: aligned files must have the same"),
    ("score -m {model} - -", "only one of the two files can be standard input"),
    ("evaluate -m {model} {short} {good}", "short has 2 lines and .*good has 3: aligned files must have the same"),
    ("evaluate -m {model} {good}", "good: the file with the references is missing"),
    ("evaluate -m {model}", "no config.yaml with a data.test: name a file with sources and one with references"),
    # where to write
    ("translate -m {model} -o {world}/text/folder ba", "folder: this is a folder, and a file is to be written here"),
    ("translate -m {model} -o {world}/none/out ba", "none/out: cannot be written: there is no folder .*none"),
    (f"translate -m {{model}} -o {NOWHERE} ba", f"{NOWHERE}: cannot be written \\("),
    (f"score -m {{model}} -o {NOWHERE} {{good}} {{good}}", f"{NOWHERE}: cannot be written \\("),
    (f"evaluate -m {{model}} -o {NOWHERE} {{good}} {{good}}", f"{NOWHERE}: cannot be written \\("),
    (f"train --source {{good}} --target {{good2}} --output {NOWHERE}", f"output = {NOWHERE}: cannot be made"),
    ("train --source {good} --target {good2} --output {good}", "good: a file is in the way; name a folder"),
    ("train --source {good} --target {good2}", "output is not set: name the run folder, e.g. --output runs/first"),
    ("data demo --output {good}", "good[^ ]*: not a directory|a folder is needed"),
    (f"data demo --output {NOWHERE}", f"{NOWHERE}: "),
    (f"data fetch g2p --output {NOWHERE}", f"{NOWHERE}"),
    (f"demo --output {NOWHERE}", f"{NOWHERE}: "),
    ("data fetch wmt", "no corpus 'wmt': there are g2p, multi30k, tatoeba-zh-en"),
    # settings of training
    ("train {world}/none.yaml", "none.yaml: no such config file"),
    ("train {world}/text/folder", "folder: cannot be read as a config file"),
    ("train {world}/text/binary", "binary: not a YAML file in UTF-8"),
    ("train {world}/text/latin1", "latin1: not a YAML file in UTF-8"),
    ("train {world}/text/good", "good: expected settings"),
    ("train {world}/text/yaml", "yaml, line 2: not valid YAML"),
    ("train {world}/text/empty --output {world}/run", "data.train is not set: give source and target, or path"),
    ("train training.learning_rte=1", "unknown setting training.learning_rte; did you mean training.learning_rate"),
    ("train learning_rate=1", "unknown setting learning_rate; did you mean training.learning_rate"),
    ("train training.learning_rate=2", "training.learning_rate = 2: .*less than or equal to 1"),
    ("train training.batch_tokens=0", "training.batch_tokens = 0: "),
    ("train training.max_updates=many", "training.max_updates = 'many': "),
    ("train model.hidden_size=30", r"model: hidden_size \(30\) must be a multiple of num_heads \(4\)"),
    ("train model.num_kv_heads=3", r"num_kv_heads \(3\) must divide num_heads \(4\)"),
    ("train decoding.beam_size=0", "decoding.beam_size = 0: "),
    ("train decoding.max_length=0", "decoding.max_length = 0: "),
    ("train seed=-1", "seed = -1: "),
    ("train =3", "override '=3' is not of the form key=value"),
    ("train a.yaml b.yaml", "'b.yaml' is not of the form KEY=VALUE; a config file must be the first argument"),
    ("train --source {good}", "data.train: give either source and target"),
    ("train --source {good} --target {short} --output {world}/run", "good has 3 lines and .*short has 2"),
    ("train --source {good} --target {good} --output {world}/run", "same text on both sides"),
    ("train --source - --target {good} --output {world}/run", "give a file, not a pipe|standard input"),
    ("train --source {good} --target {good2} --output {world}/run training.device=cuda:99", "device = 'cuda:99'"),
    ("data check", "data.train is not set: give source and target, or path"),
    ("data check data.on_bad_line=ignore", "data.on_bad_line = 'ignore': "),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """A folder with everything that can be wrong."""
    world = tmp_path_factory.mktemp("world")
    write_bad_texts(world / "text")
    write_bad_models(world / "models", tiny_run / "best")
    return world


def write_bad_texts(folder: Path) -> None:
    (folder / "folder").mkdir(parents=True)
    contents = {
        "good": b"ba\nda\nga\n",
        "good2": b"BA\nDA\nGA\n",
        "short": b"ba\nda\n",
        "empty": b"",
        "binary": b"ba\0\1\2\n" * 3,
        "latin1": "ba\ncafé\nga\n".encode("latin-1").replace(b"caf", b"ca"),
        "utf16": "ba\nda\nga\n".encode("utf-16"),
        "zipped": b"\x1f\x8b\x08\x00" + bytes(20),
        "torn.gz": b"\x1f\x8b\x08\x00" + bytes(6),
        "yaml": b"model: 1\n  x: [\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def write_bad_models(folder: Path, good: Path) -> None:
    def change(name: str, file: str, edit: Callable[[Path], object]) -> None:
        shutil.copytree(good, folder / name)
        edit(folder / name / file)

    def halve(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def settings(**changes: Any) -> Callable[[Path], object]:
        return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
        def rewrite(path: Path) -> None:
            found = load_file(path)
            edit(found)
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)

        return rewrite

    def shorten(found: dict[str, torch.Tensor]) -> None:
        name = "decoder.layers.0.attention.output.bias"
        found[name] = found[name][:-1]

    def rename_symbol(path: Path) -> None:
        path.write_text(path.read_text().replace("BA", "BO"))

    shutil.copytree(good, folder / "good")
    model = json.loads((good / "config.json").read_text())["model"]
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    change("no weights", "model.safetensors", Path.unlink)
    change("no tokenizer", "tokenizer", shutil.rmtree)
    change("half a tokenizer", "tokenizer/tokenizer.json", halve)
    change(
        "changed tokenizer",
        "tokenizer/tokenizer.json",
        lambda path: path.write_text(path.read_text().replace("BA", "BO")),
    )
    change("half the weights", "model.safetensors", halve)
    change("changed shape", "model.safetensors", tensors(shorten))
    change("lost tensor", "model.safetensors", tensors(lambda found: found.popitem()))
    change("half a config", "config.json", halve)
    change("strange config", "config.json", lambda path: path.write_text('{"architectures": ["MarianMTModel"]}'))
    change("later version", "config.json", settings(version=99))
    change("unknown setting", "config.json", settings(model={**model, "hiden_size": 3}))
    change("other architecture", "config.json", settings(model={**model, "ff_size": 65}))
    change("other vocabulary", "config.json", settings(source_vocab_size=25, target_vocab_size=25))
    save_model(
        folder / "other vocabulary",
        EncoderDecoder(parse_config({"model": model}).model, 25, 25),
    )
    change("decoding", "config.json", settings(decoding={"beam_size": 0}))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.relative_to(folder).parts[0] != "run"
    }


def arguments(line: str, world: Path, wrong: Path | None = None) -> list[str]:
    text = world / "text"
    names = {"world": world, "model": world / "models" / "good", **{n: text / n for n in ("good", "good2", "short")}}
    return [part.format(wrong, **names) for part in line.split()]


def assert_one_sentence(result: Result, pattern: str) -> None:
    assert result.status == 2, result
    (sentence,) = [line for line in result.err.splitlines() if line.startswith("pellucid: error: ")]
    assert result.err.endswith(sentence + "\n") and result.out == ""
    assert re.search(pattern, sentence), sentence
    assert not re.search(r"Error:|Errno|Traceback", sentence)


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_wrong_text(command: str, text: str, world: Path, run: Run) -> None:
    before = contents(world)
    result = run(*arguments(READERS[command], world, world / "text" / text))
    if (command, text) == ("translate", "latin1"):  # the line before the bad one is translated
        result = result._replace(out=result.out.removeprefix("BA\n"))
    assert_one_sentence(result, TEXTS[text])
    assert contents(world) == before


@pytest.mark.parametrize("command", LOADERS)
@pytest.mark.parametrize("model", MODELS)
def test_wrong_model(command: str, model: str, world: Path, run: Run) -> None:
    before = contents(world)
    line = [part.format(world / "models" / model, good=world / "text" / "good") for part in LOADERS[command].split()]
    assert_one_sentence(run(*line), MODELS[model])
    assert contents(world) == before


@pytest.mark.parametrize(("line", "pattern"), OTHERS)
def test_wrong_arguments(line: str, pattern: str, world: Path, run: Run) -> None:
    before = contents(world)
    assert_one_sentence(run(*arguments(line, world)), pattern)
    assert contents(world) == before


# -- a run that cannot go on


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    """A run stopped at update 4 of 8, and its config in ``stopped.yaml``, with {} for the output folder."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = toy_settings(toy_corpus, folder / "run")
    settings["training"] |= {"max_updates": 8, "validate_every": 2, "metric": "loss", "ema_decay": 0.5}
    train(parse_config(settings), Ending(4, signal.SIGINT))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def resumed(stopped: Path, tmp_path: Path) -> list[Any]:
    """A command line that goes on with a copy of that run."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    return ["train", stopped / "config.yaml", f"output={tmp_path / 'run'}"]


def test_a_run_goes_on(resumed: list[Any], tmp_path: Path, run: Run) -> None:
    assert run(*resumed).status == 0
    assert json.loads((tmp_path / "run" / "last" / "training.json").read_text())["update"] == 8


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    resumed: list[Any], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = trainer.batch_loss
    calls = iter(range(100))

    def batch_loss(*arguments: Any) -> Any:
        loss, nll = good(*arguments)
        return loss * (float("nan") if next(calls) == 1 else 1.0), nll

    monkeypatch.setattr(trainer, "batch_loss", batch_loss)
    before = contents(tmp_path / "run" / "last"), contents(tmp_path / "run" / "best")
    result = run(*resumed)
    assert_one_sentence(result, r"update 6: the loss \(nan\).* is not a finite number.*/last holds update 4, whole")
    assert (contents(tmp_path / "run" / "last"), contents(tmp_path / "run" / "best")) == before


def test_a_poisoned_checkpoint_is_noticed_and_stays(resumed: list[Any], tmp_path: Path, run: Run) -> None:
    last = tmp_path / "run" / "last"
    state = load_file(last / "training.safetensors")
    for name, tensor in state.items():
        if name.startswith("weights."):
            tensor.fill_(float("nan"))
    save_file(state, last / "training.safetensors")
    before = contents(last)
    assert_one_sentence(run(*resumed), "update 5: the loss .* is not a finite number")
    assert contents(last) == before


def test_weights_that_are_not_numbers_do_not_translate(world: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(world / "models" / "good", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, tmp_path / "model/model.safetensors")
    for line in ("translate --model {} ba", "score --model {} {good} {good}"):
        names = [part.format(tmp_path / "model", good=world / "text" / "good") for part in line.split()]
        assert_one_sentence(run(*names), "NaN|not finite")


@pytest.mark.parametrize("where", [".last.tmp", ".best.tmp", ".config.yaml"])
def test_a_full_disk_leaves_the_checkpoint_whole(
    where: str, resumed: list[Any], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = files._sync

    def full(path: Path) -> None:
        if where in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    folder = tmp_path / "run"
    before = contents(folder / "last")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", full)
        result = run(*resumed)
    assert_one_sentence(result, "the disk is full.*: make room and start the same command again")
    assert contents(folder / "last") == before
    assert [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".old"))] == []
    assert run(*resumed).status == 0


def test_a_disk_full_of_events_ends_the_run(resumed: list[Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, as TensorBoard's writers do it, this error would be lost and the run would wait for ever."""

    def full(self: object, scalars: object, update: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pellucid.training.log._EventFile.add", full)
    assert_one_sentence(run(*resumed), "run: the disk is full; .*/last holds update 4, whole")


def test_a_full_disk_leaves_the_old_translation(
    world: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    (tmp_path / "out").write_text("old")
    monkeypatch.setattr(files, "_sync", full)
    result = run("translate", "-m", world / "models" / "good", "-o", tmp_path / "out", "ba")
    assert_one_sentence(result, "the disk is full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "old"}


def test_a_run_with_other_settings_is_not_touched(resumed: list[Any], tmp_path: Path, run: Run) -> None:
    before = contents(tmp_path / "run" / "last")
    result = run(*resumed, "training.learning_rate=0.5", "seed=2")
    assert_one_sentence(result, r"seed \(1 → 2\), training.learning_rate \(0.02 → 0.5\)")
    assert contents(tmp_path / "run" / "last") == before


def test_a_second_process_in_the_same_folder_is_refused(resumed: list[Any], tmp_path: Path, run: Run) -> None:
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_one_sentence(run(*resumed), "run: another process is training in this folder")
    assert run(*resumed).status == 0


def test_a_damaged_checkpoint_is_named(resumed: list[Any], tmp_path: Path, run: Run) -> None:
    state = tmp_path / "run" / "last" / "training.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    assert_one_sentence(run(*resumed), "last/training.safetensors: not readable .*; the checkpoint is damaged")
    (tmp_path / "run" / "last" / "training.json").write_text("{")
    assert_one_sentence(run(*resumed), "last/training.json: not the state of a training run; the file is damaged")


def test_too_little_memory_is_no_traceback(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
    ):
        monkeypatch.setattr("pellucid.text_generator.TextGenerator.generate", raiser(error))
        assert_one_sentence(
            run("translate", "-m", world / "models" / "good", "ba"), "there is not enough memory: lower"
        )


def raiser(error: BaseException) -> Callable[..., Any]:
    def generate(*arguments: Any, **settings: Any) -> Any:
        raise error

    return generate


def test_a_bug_keeps_its_traceback(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (RuntimeError("boom"), ValueError("boom"), KeyError("boom")):
        monkeypatch.setattr("pellucid.text_generator.TextGenerator.generate", raiser(error))
        with pytest.raises(type(error)):
            run("translate", "-m", world / "models" / "good", "ba")


LONG = ["translate -m {model}", "score -m {model} - {long}", "score -m {model} {short} -"]


@pytest.mark.parametrize("command", LONG)
def test_a_text_longer_than_a_learned_table_is_named(command: str, world: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(world / "models" / "good", tmp_path / "model")
    document = json.loads((tmp_path / "model" / "config.json").read_text())
    config = parse_config({"model": {**document["model"], "positions": "learned", "max_positions": 300}}).model
    save_model(tmp_path / "model", EncoderDecoder(config, 24, 24))
    texts = ["ba"] * 5 + ["ba " * 300] + ["ba"]
    (tmp_path / "long").write_text("".join(text + "\n" for text in texts))
    (tmp_path / "short").write_text("ba\n" * len(texts))
    names = {name: tmp_path / name for name in ("model", "long", "short")}
    line = [part.format(**names) for part in command.split()]
    result = run(*line, "--batch-size", 1, stdin=(tmp_path / "long").read_bytes())
    assert result.status == 2
    assert re.search(r"pellucid: error: .*line 6: .*301", result.err), result.err
