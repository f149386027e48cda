"""The commands around a trained model: score, evaluate, info, train and data, on good input."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import pellucid
from pellucid.commands import engines, reading
from pellucid.commands.info import _cache
from pellucid.config import Config, ModelConfig, load_config
from pellucid.evaluation import evaluate
from pellucid.model.transformer import EncoderDecoder
from pellucid.text_generator import TextGenerator
from toys import Run, toy_settings


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# -- score


def test_score_is_what_the_library_says(tiny_run: Path, toy_corpus: Path, run: Run) -> None:
    files = toy_corpus / "dev.src", toy_corpus / "dev.tgt"
    expected = pellucid.load(tiny_run).score(*map(lines_of, files))
    result = run("score", "--model", tiny_run, *files)
    assert result == (0, "".join(f"{score.score:.6f}\n" for score in expected), "")
    rows = [json.loads(line) for line in run("score", "--model", tiny_run, *files, "--json").out.splitlines()]
    assert [list(row) for row in rows] == [["source", "target", "score", "tokens", "token_logprobs"]] * len(rows)
    assert [(row["source"], row["target"]) for row in rows] == list(zip(*map(lines_of, files), strict=True))
    assert [row["token_logprobs"] for row in rows] == [score.token_logprobs for score in expected]
    assert [row["tokens"][-1] for row in rows] == ["</s>"] * len(rows)


def test_score_agrees_with_translate(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("ba da\nga ka la\n")
    found = [
        json.loads(line) for line in run("translate", "-m", tiny_run, "-i", tmp_path / "src", "--json").out.splitlines()
    ]
    best = [row["hypotheses"][0] for row in found]
    assert {hypothesis["finish_reason"] for hypothesis in best} == {"eos"}
    (tmp_path / "tgt").write_text("".join(hypothesis["text"] + "\n" for hypothesis in best))
    scores = run("score", "-m", tiny_run, tmp_path / "src", tmp_path / "tgt").out.split()
    assert [float(score) for score in scores] == pytest.approx([hypothesis["score"] for hypothesis in best], abs=2e-5)


def test_score_of_blank_lines(tiny_run: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BATCHES", 1)
    (tmp_path / "src").write_text("ba\n\n \nba\n")
    (tmp_path / "tgt").write_text("BA\n\nBA\n\n")
    base = ("score", "-m", tiny_run, "--batch-size", 2, "--length-penalty", "none", tmp_path / "src", tmp_path / "tgt")
    first, second, third, fourth, end = run(*base).out.split("\n")
    assert (second, third, end) == ("", "", "")
    assert float(fourth) < float(first) < 0  # saying nothing is possible, and less probable
    row = json.loads(run(*base, "--json").out.splitlines()[2])
    assert row == {"source": " ", "target": "BA", "score": None, "tokens": [], "token_logprobs": []}


def test_score_reads_stdin_and_writes_a_file(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "tgt").write_text("BA\n")
    plain = run("score", "-m", tiny_run, "-", tmp_path / "tgt", stdin=b"ba\n")
    assert plain.status == 0
    assert run("score", "-m", tiny_run, "-", tmp_path / "tgt", "-o", tmp_path / "out", stdin=b"ba\n") == (0, "", "")
    assert (tmp_path / "out").read_text() == plain.out


# -- evaluate


def test_evaluate_reports_what_the_metrics_say(tiny_run: Path, toy_corpus: Path, run: Run, tmp_path: Path) -> None:
    sources, references = (lines_of(toy_corpus / name) for name in ("dev.src", "dev.tgt"))
    texts = [generation.text for generation in pellucid.load(tiny_run).generate(sources, beam_size=3)]
    scores = evaluate(texts, references, ("bleu", "chrf", "wer", "ser"))
    base = ("evaluate", "-m", tiny_run, toy_corpus / "dev.src", toy_corpus / "dev.tgt", "--beam-size", 3)
    result = run(*base, "--metric", "bleu,chrf,WER,ser", "--json", "-o", tmp_path / "hyps")
    facts = json.loads(result.out)
    assert (result.status, result.err) == (0, "")
    for name in ("bleu", "bleu_signature", "chrf", "chrf_signature", "wer", "ser"):
        assert facts[name] == getattr(scores, name)
    assert facts["lines"] == len(sources)
    assert facts["sentences_per_second"] == pytest.approx(len(sources) / facts["seconds"], rel=0.01)
    assert facts["decoding"]["beam_size"] == 3
    assert facts["cut_by_length_limit"] == 0
    assert lines_of(tmp_path / "hyps") == texts
    page = run(*base).out
    assert f"BLEU          {scores.bleu:.2f}   nrefs:1|case:mixed" in page
    assert f"chrF          {scores.chrf:.2f}   nrefs:1|" in page
    assert "WER" not in page and "0 by the length limit" in page
    assert re.search(r"steps +\d+\.\d a line, \d+\.\d of them to be sure", page)


def test_evaluate_counts_what_the_limit_cut(tiny_run: Path, toy_corpus: Path, run: Run) -> None:
    files = toy_corpus / "dev.src", toy_corpus / "dev.tgt"
    facts = json.loads(run("evaluate", "-m", tiny_run, *files, "--max-length", 1, "--json").out)
    generations = pellucid.load(tiny_run).generate(lines_of(files[0]), max_length=1)
    cut = sum(generation.hypotheses[0].finish_reason == "length" for generation in generations)
    assert facts["cut_by_length_limit"] == cut > 1


def test_evaluate_takes_the_test_corpus_of_the_run(tiny_run: Path, toy_corpus: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "best", tmp_path / "best")
    settings = toy_settings(toy_corpus)
    settings["data"]["test"] = settings["data"]["dev"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    expected = json.loads(run("evaluate", "-m", tiny_run, toy_corpus / "dev.src", toy_corpus / "dev.tgt", "--json").out)
    for folder in (tmp_path, tmp_path / "best"):
        assert json.loads(run("evaluate", "-m", folder, "--json").out)["bleu"] == expected["bleu"]


# -- info


def test_info_as_json(tiny_run: Path, run: Run) -> None:
    facts = json.loads(run("info", tiny_run, "--json").out)
    translator = pellucid.load(tiny_run)
    parameters = facts["parameters"]
    assert parameters.pop("total") == sum(parameters.values()) == sum(p.numel() for p in translator.model.parameters())
    assert facts["model"]["hidden_size"] == 32
    assert facts["tokenizers"] == {
        "shared": True,
        "source": {"kind": "symbols", "vocab_size": 24},
        "target": {"kind": "symbols", "vocab_size": 24},
    }
    assert facts["training"]["updates_done"] == 120
    assert facts["training"]["update"] == facts["training"]["best_update"]
    assert facts["training"]["finished"] == "all updates done"
    assert facts["decoding"] == translator.decoding.model_dump(mode="json")


def test_info_of_a_folder_outside_a_run(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    facts = json.loads(run("info", tmp_path / "model", "--json").out)
    assert list(facts["training"]) == ["update"]
    page = run("info", tmp_path / "model").out
    assert f"weights of update {facts['training']['update']}\n" in page


def test_a_run_that_is_being_saved_is_read_and_left_alone(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    """Between its two renames a save has moved best/ aside; what it has written so far is its own."""
    shutil.copytree(tiny_run / "best", tmp_path / ".best.old")
    (tmp_path / ".best.tmp").mkdir()
    assert run("info", tmp_path).out.startswith(f"{tmp_path / '.best.old'}\n")
    assert run("translate", "-m", tmp_path, "ba").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".best.old", ".best.tmp"]


@pytest.mark.parametrize(("kv_heads", "cross_kv_heads"), [(None, None), (2, 1), (1, None)])
def test_cache_bytes_of_grouped_heads(
    kv_heads: int | None, cross_kv_heads: int | None, tiny_run: Path, run: Run, tmp_path: Path
) -> None:
    """The formula, the cache and arithmetic by hand agree."""
    from pellucid.config import ModelConfig
    from pellucid.model.storage import save_model
    from pellucid.model.transformer import EncoderDecoder

    sizes = {"hidden_size": 32, "encoder_layers": 1, "decoder_layers": 3, "num_heads": 4, "ff_size": 16}
    config = ModelConfig(**sizes, num_kv_heads=kv_heads, cross_num_kv_heads=cross_kv_heads)
    shutil.copytree(tiny_run / "best" / "tokenizer", tmp_path / "tokenizer")
    save_model(tmp_path, EncoderDecoder(config, 24, 24))
    cache = json.loads(run("info", tmp_path, "--json").out)["kv_cache"]
    whole = 2 * 3 * 4 * 8 * 4  # keys and values, layers, heads, head size, bytes of a float32
    kv = kv_heads or 4
    cross = cross_kv_heads or kv
    assert cache["bytes_per_number"] == 4
    for part, heads in (("self_attention_per_target_token", kv), ("cross_attention_per_source_token", cross)):
        assert cache[part] == {"formula": whole * heads // 4, "measured": whole * heads // 4, "multi_head": whole}
    rows = [line.split() for line in run("info", tmp_path).out.splitlines()]
    assert [*["per", "target", "token", "and", "beam"], *map(str, (whole * kv // 4, whole * kv // 4, whole))] in rows
    assert [*["per", "source", "token"], *map(str, (whole * cross // 4, whole * cross // 4, whole))] in rows


# -- train


def test_print_config_is_a_config(run: Run, tmp_path: Path) -> None:
    result = run("train", "--print-config")
    assert (result.status, result.err) == (0, "")
    (tmp_path / "config.yaml").write_text(result.out)
    assert load_config(tmp_path / "config.yaml") == Config()
    assert run("train", tmp_path / "config.yaml", "--print-config").out == result.out


def test_overrides_win_over_flags_and_flags_over_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a=b.yaml"  # an existing file is no override
    file.write_text("output: file\nseed: 3\ndata: {train: {path: a.tsv}, dev: {path: b.tsv}}\nmodel: {preset: tiny}\n")

    def resolved(*arguments: object) -> Any:
        return yaml.safe_load(run("train", file, *arguments, "--print-config").out)

    plain = resolved()
    assert (plain["output"], plain["seed"], plain["model"]["hidden_size"]) == ("file", 3, 128)
    flags = resolved("--source", "s", "--target", "t", "--output", "flag")
    assert flags["output"] == "flag"
    assert (flags["data"]["train"]["source"], flags["data"]["train"]["path"]) == ("s", None)
    assert flags["data"]["dev"] == plain["data"]["dev"]
    both = resolved("--output", "flag", "output=override", "seed=4", "seed=5")
    assert (both["output"], both["seed"]) == ("override", 5)


def test_train_with_flags_alone_then_again_then_anew(toy_corpus: Path, run: Run, workdir: Path) -> None:
    for name in ("train", "dev"):
        for side in ("src", "tgt"):
            shutil.copy(toy_corpus / f"{name}.{side}", workdir)
    settings = [
        "tokenizer.kind=symbols",
        "model.hidden_size=16",
        "model.encoder_layers=1",
        "model.decoder_layers=1",
        "model.ff_size=16",
        "training.max_updates=3",
        "training.log_every=1",
        "training.metric=loss",
        "training.precision=float32",
    ]
    files = ["--source", "train.src", "--target", "train.tgt", "--dev-source", "dev.src", "--dev-target", "dev.tgt"]
    first = run("train", *settings, *files, "--output", "runs/x")
    assert (first.status, first.out) == (0, "")
    said = first.err.splitlines()
    assert said[:2] == ["train: 400 pairs read, 400 kept.", "dev: 20 pairs read, 20 kept."]
    assert [line.split("  loss")[0] for line in said if "tokens/s" in line] == [
        f"epoch {update}  update {update}/3" for update in (1, 2, 3)
    ]
    assert said[-1].startswith("validation at update 3  loss ") and said[-1].endswith("  new best")
    weights = (workdir / "runs/x/last/model.safetensors").read_bytes()

    second = run("train", *settings, *files, "--output", "runs/x")
    assert (second.status, second.out) == (0, "")
    assert second.err.startswith("runs/x: this run has finished (all updates done, best loss ")

    anew = run("train", *settings, *files, "--output", "runs/x", "--overwrite")
    assert anew.status == 0
    assert [line.split("  lr")[0] for line in anew.err.splitlines() if "tokens/s" in line] != []
    assert (workdir / "runs/x/last/model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in workdir.iterdir()) == ["dev.src", "dev.tgt", "runs", "train.src", "train.tgt"]


# -- data


def test_data_check_reports_and_keeps_nothing(
    toy_corpus: Path, run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(workdir))
    shutil.copy(toy_corpus / "train.src", "a")
    Path("b").write_text("\n".join(["", *lines_of(toy_corpus / "train.tgt")[1:]]) + "\n")
    result = run("data", "check", "--source", "a", "--target", "b", "tokenizer.kind=symbols")
    assert (result.status, result.err) == (0, "")
    said = result.out.splitlines()
    assert "source tokenizer: symbols, 24 tokens." in said
    assert any("dropped 1 pair with an empty side (first: a, line 1)" in line for line in said)
    assert sum(" tokens, " in line and " in a sentence, at most 5." in line for line in said) == 4
    assert sorted(path.name for path in workdir.iterdir()) == ["a", "b"]


def test_data_demo_writes_the_data_set(run: Run, workdir: Path) -> None:
    assert importlib.resources.files("hsk_sentences_audio").is_dir()  # the extra `demo`, part of `dev`
    result = run("data", "demo", "--output", "hsk")
    assert (result.status, result.err) == (0, "")
    assert sorted(path.name for path in Path("hsk").iterdir()) == ["README.md", "dev.tsv", "test.tsv", "train.tsv"]
    pairs = len(lines_of(Path("hsk/train.tsv")))
    assert result.out.startswith(f"hsk: {pairs:,} pairs to train on, ")


def test_data_fetch_says_where_it_put_the_corpus(run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path]] = []

    def fetch(name: str, folder: Path, progress: Any) -> Path:
        progress("a.gz", 10)
        asked.append((name, folder))
        return folder / name

    monkeypatch.setattr("pellucid.data.fetch.fetch", fetch)
    assert run("data", "fetch", "g2p") == (0, "corpora/g2p (source and licence: corpora/g2p/README.md)\n", "")
    assert asked == [("g2p", Path("corpora"))]


# -- what a review found


def test_evaluate_looks_at_its_metrics_before_it_translates(
    tiny_run: Path, toy_corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(engines, "open_generator", refuse)
    files = toy_corpus / "dev.src", toy_corpus / "dev.tgt"
    result = run("evaluate", "-m", tiny_run, *files, "--bleu-tokenize", "14a")
    assert result.status == 2
    assert "bleu_tokenize = '14a': choose one of" in result.err


def test_an_interrupted_evaluation_keeps_its_translations(
    tiny_run: Path, toy_corpus: Path, run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TextGenerator.generate
    calls: list[int] = []

    def interrupted(self: TextGenerator, sources: list[str], **settings: Any) -> Any:
        calls.append(len(sources))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, sources, **settings)

    monkeypatch.setattr(TextGenerator, "generate", interrupted)
    monkeypatch.setattr(reading, "CHUNK_BATCHES", 1)
    files = toy_corpus / "dev.src", toy_corpus / "dev.tgt"
    result = run("evaluate", "-m", tiny_run, *files, "--batch-size", 4, "-o", "out")
    assert (result.status, result.out) == (130, "")
    assert result.err.endswith(f"what was written so far is in {workdir.resolve() / 'out.part'}\n")
    assert [path.name for path in workdir.iterdir()] == ["out.part"]
    assert len(lines_of(Path("out.part"))) == 4


def test_info_of_the_folder_one_is_in(tiny_run: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run / "best")
    assert json.loads(run("info", ".", "--json").out)["training"]["updates_done"] == 120


def test_info_of_a_model_with_a_short_table_of_positions() -> None:
    settings = {"positions": "learned", "max_positions": 5, "hidden_size": 8, "num_heads": 2, "ff_size": 8}
    model = EncoderDecoder(ModelConfig(**settings), 9, 9).eval()
    cache = _cache(model)
    assert cache["self_attention_per_target_token"]["measured"] == cache["self_attention_per_target_token"]["formula"]
