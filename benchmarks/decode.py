"""How fast texts are generated, beside CTranslate2 and transformers, in one call.

    python benchmarks/decode.py MODEL SOURCES [--references FILE] [--only NAME ...] [--quick] [--json FILE]

MODEL is the folder of a Marian checkpoint of Hugging Face, SOURCES a file with a text a line (.gz too). The same rows
follow for a model of base size (6 + 6 layers, 512 wide, 32,000 words) with random weights, made for the purpose, whose
outputs all have 32 tokens. Needs ``pip install 'pellucid[ctranslate2]' transformers``; takes some 20 minutes.

Every system is a process of its own that loads its model once; the processes take turns, so that what else the machine
does falls on all alike, and the median of the repeats counts. Two threads for all (one where it says so). Token
numbers go in and come out; tokenising is not measured. The rule that ends a beam is the same for all: as soon as it
has found as many ended hypotheses as it is wide, each replaced by the next best while it goes on; so is the limit, 128
tokens. What our own default, exact stopping, costs is a row of its own.

Of CTranslate2 every setting is tried on a share of the texts, after a warm-up: how batches are made, threads by
workers, types, then its environment variables, in processes of their own. What is within a fifth of the best runs
again, and the best counts. Memory is what a fresh process uses at most, beyond what it has with the model loaded and
two texts run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decode_runners import CASES, THREADS, Case, packed_engine

MODELS = ("small", "base")
EXTRAS = ("cache", "files", "start")
COLUMNS = ("model", "work", "precision", "system", "setting", "sentences/s", "tokens/s", "ratio", "BLEU", "memory MiB")
Options = dict[str, Any]


def environments() -> list[dict[str, str]]:
    """CTranslate2's variables where they change something: MKL is its default on Intel's CPUs alone."""
    is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    use = {} if is_intel else {"CT2_USE_MKL": "1"}
    packed = {**use, "CT2_USE_EXPERIMENTAL_PACKED_GEMM": "1"}
    return [{"CT2_USE_MKL": "0"} if is_intel else use, packed, {"CT2_FORCE_CPU_ISA": "AVX2"}]


class Process:
    """One system with one precision, and environment variables of its own."""

    def __init__(self, work: Work, system: str, precision: str, variables: dict[str, str] | None = None) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(THREADS)}
        script = str(Path(__file__).with_name("decode_runners.py"))
        command = [sys.executable, script, system, str(work.folder), precision, str(int(work.base))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if system == "transformers" else None,
            text=True,
            env={**environment, **(variables or {})},
        )
        self._send(work.sources)

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def run(self, **asked: Any) -> Options:
        """One measurement."""
        self._send(asked)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a system has failed; what it said stands above")
        answer: Options = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Work:
    """A model with its texts, and how much of them is measured."""

    def __init__(self, folder: Path, sources: list[list[int]], base: bool, quick: bool) -> None:
        self.folder, self.sources, self.base, self._quick = folder, sources, base, quick

    def texts(self, case: Case) -> int:
        """Of a row."""
        count = (case.base_texts if self.base else case.texts) or len(self.sources)
        return min(count, 8 if case.singles else 64) if self._quick else count

    def trial(self, case: Case) -> tuple[int, int]:
        """Of a trial of settings, and of the warm-up before it."""
        texts = self.texts(case)
        if case.singles or self._quick:
            return max(4, texts // 2), max(2, texts // 4)
        if self.base:  # a batch for each worker takes long enough
            return min(texts, 128 if case.beam == 1 else 64), 64 if case.beam == 1 else 16
        return max(256, texts // 4), 128


class Tuning:
    """CTranslate2's best setting for one row, found one kind of setting after the other."""

    def __init__(self, work: Work, name: str, precision: str) -> None:
        self._work, self._name, self._precision = work, name, precision
        self._rates: dict[str, list[float]] = {}

    def best(self) -> Options:
        """With the environment variables under ``variables``."""
        from ctranslate2 import get_supported_compute_types

        case = CASES[self._name]
        types = ["int8", "int8_float32", "int8_bfloat16"] if self._precision == "int8" else ["float32"]
        types = [kind for kind in types if kind in get_supported_compute_types("cpu")]
        start = {
            "type": types[0],
            "inter": case.threads,
            "intra": 1,
            "batch": 1 if case.singles else 64,
            "variables": {},
        }
        changes: list[list[Options]] = [[{"batch": 32}, {"batch": "tokens"}]] if not case.singles else []
        if case.threads > 1:
            changes.append([{"inter": 1, "intra": case.threads}])
        changes += [[{"type": kind} for kind in types[1:]], [{"variables": one} for one in environments()]]
        best = start
        for each in changes:
            best = self._fastest([best, *({**best, **change} for change in each)])
        return best

    def _fastest(self, options: list[Options]) -> Options:
        processes: dict[str, Process] = {}
        keys = [json.dumps(one) for one in options]
        for round_number in range(2):
            top = max((max(rates) for rates in self._rates.values()), default=0.0)
            for key, one in zip(keys, options, strict=True):
                rates = self._rates.setdefault(key, [])
                if len(rates) > round_number or (round_number and max(rates) < top * 0.8):
                    continue
                rates.append(self._rate(processes, one))
        for process in processes.values():
            process.close()
        return options[max(range(len(keys)), key=lambda place: max(self._rates[keys[place]]))]

    def _rate(self, processes: dict[str, Process], options: Options) -> float:
        variables = json.dumps(options["variables"])
        if variables not in processes:
            processes[variables] = Process(self._work, "ctranslate2", self._precision, options["variables"])
        texts, warm = self._work.trial(CASES[self._name])
        rate: float = processes[variables].run(case=self._name, texts=texts, warm=warm, **options)["rate"]
        return rate


def setting(options: Options) -> str:
    """As it stands in the table."""
    if "type" not in options:
        return ""
    batches = "tokens" if options["batch"] == "tokens" else f"{options['batch']}"
    variables = " ".join(f"{name}={value}" for name, value in options["variables"].items())
    return f"{options['type']}, {options['inter']} × {options['intra']}, {batches} {variables}".strip()


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def peak(work: Work, system: str, precision: str, name: str, options: Options) -> float:
    """MiB beyond the loaded model, in a fresh process."""
    process = Process(work, system, precision, options.get("variables"))
    try:
        found: float = process.run(case=name, texts=work.texts(CASES[name]), **options)["memory"]
        return max(0.0, found)
    finally:
        process.close()


def rows(work: Work, name: str, precision: str, repeats: int, with_transformers: bool) -> Iterator[Options]:
    """Of one case: who, with which setting, how fast, what was found, and with how much memory."""
    case = CASES[name]
    options: dict[str, Options] = {"pellucid": {}, "ctranslate2": Tuning(work, name, precision).best()}
    if case.beam > 1 and not work.base:
        options["pellucid, exact stopping"] = {"exact": True}
    if precision == "float32" and with_transformers and not case.singles:
        options["transformers"] = {}
    systems = {key: key.partition(",")[0] for key in options}
    processes = {
        system: Process(work, system, precision, options[system].get("variables")) for system in set(systems.values())
    }
    answers: dict[str, list[Options]] = {key: [] for key in options}
    texts = work.texts(case)
    for number in range(repeats):
        for key, system in systems.items():
            warm = 2 if number else work.trial(case)[1]
            answers[key].append(processes[system].run(case=name, texts=texts, warm=warm, **options[key]))
    for process in processes.values():
        process.close()
    ours = median([answer["rate"] for answer in answers["pellucid"]])
    for key, given in answers.items():
        rate = median([answer["rate"] for answer in given])
        yield {
            "model": "base" if work.base else "small",
            "work": case.title,
            "precision": precision,
            "system": key,
            "setting": setting(options[key]),
            "sentences/s": rate,
            "slowest and fastest": [min(answer["rate"] for answer in given), max(answer["rate"] for answer in given)],
            "tokens/s": median([answer["tokens"] for answer in given]),
            "ratio": ours / rate,
            "memory MiB": peak(work, systems[key], precision, name, options[key]),
            "found": given[-1]["found"],
        }


class Scores:
    """BLEU of token numbers in the order of the sources that were measured."""

    def __init__(self, tokenizer: Any, order: list[int], references: list[str] | None) -> None:
        self._tokenizer, self._order, self._references = tokenizer, order, references

    def of(self, found: list[list[int]] | None) -> float | None:
        """None where not all texts were measured."""
        if found is None or self._references is None:
            return None
        import sacrebleu

        texts = [""] * len(self._order)
        for place, tokens in zip(self._order, found, strict=True):
            texts[place] = self._tokenizer.decode(tokens)
        return float(sacrebleu.corpus_bleu(texts, [self._references]).score)


def cache_bytes(folder: Path, source: list[int]) -> dict[int, int]:
    """Bytes of the cross-attention's keys and values of one text, after some steps of beams of these widths."""
    import numpy as np

    engine = packed_engine(folder, "int8")
    found = {}
    for beam in (1, 2, 4, 8, 16):
        step = engine.start([source], 8)
        step(np.zeros(1, np.int32))
        step.reorder(np.zeros(beam, np.int64))
        for _ in range(5):
            step(np.arange(beam, dtype=np.int32))
        found[beam] = step.allocated_bytes()[0]
    return found


def cold_start(model: Path) -> dict[str, float]:
    """Median seconds of the command on one word, weights packed before: by the clock, and of CPU."""
    command = [sys.executable, "-m", "pellucid", "translate", "--model", str(model), "--precision", "int8", "hello"]
    by_clock, of_cpu = [], []
    for _ in range(6):
        start, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        now = os.times()
        by_clock.append(time.perf_counter() - start)
        of_cpu.append(now.children_user + now.children_system - before.children_user - before.children_system)
    return {"by the clock": median(by_clock[1:]), "of CPU": median(of_cpu[1:])}


def base_model(folder: Path, model: Path) -> None:
    """A Marian of base size with random weights; its tokenizer is only there to be read."""
    import torch
    from transformers import MarianConfig, MarianMTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(1)
    sizes = dict(d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048)
    heads = dict(encoder_attention_heads=8, decoder_attention_heads=8, vocab_size=32000, decoder_vocab_size=32000)
    special = dict(pad_token_id=31999, eos_token_id=0, decoder_start_token_id=31999, forced_eos_token_id=0)
    config = MarianConfig(**sizes, **heads, **special, scale_embedding=True, activation_function="relu", init_std=0.04)
    MarianMTModel(config).save_pretrained(folder)
    words = {"</s>": 0, "<unk>": 1, **{f"w{number}": number for number in range(2, 31999)}, "<pad>": 31999}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        (folder / name).symlink_to((model / name).resolve())


def prepared(folder: Path, model: Path, base: bool) -> Path:
    """A folder with the model as each system wants it."""
    folder.mkdir()
    if base:
        base_model(folder, model)
    else:
        for file in model.iterdir():
            (folder / file.name).symlink_to(file.resolve())
    converter = str(Path(sys.executable).parent / "ct2-transformers-converter")
    for kind in ("int8", "float32"):
        command = [converter, "--model", str(folder), "--output_dir", str(folder / f"ct2-{kind}"), "--quantization"]
        subprocess.run([*command, kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        packed_engine(folder, kind)
    return folder


def shown(value: Any) -> str:
    """A cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 or 30 < value < 50 else f"{value:.1f}"
    return str(value)


def compare(arguments: argparse.Namespace, place: Path) -> Options:
    """Measure, and print as it comes."""
    import pellucid as package
    from pellucid.data.lines import read_lines

    translator = package.load(arguments.model, device="cpu")
    texts = list(read_lines(str(arguments.sources)))[: arguments.limit]
    config = translator.settings()
    encoded = [[*translator.source_ids(text, config), translator.source_tokenizer.eos_id] for text in texts]
    order = sorted(range(len(texts)), key=lambda number: -len(encoded[number]))
    sources = [encoded[number] for number in order]
    references = list(read_lines(str(arguments.references)))[: arguments.limit] if arguments.references else None
    scores = Scores(translator.target_tokenizer, order, references)
    del translator
    wanted = set(arguments.only)
    report: Options = {"rows": []}
    kinds = [kind for kind in MODELS if kind in wanted or not wanted & set(MODELS)]
    if wanted and not wanted - set(EXTRAS):
        kinds = []
    else:
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for kind in kinds:
        work = Work(prepared(place / kind, arguments.model, kind == "base"), sources, kind == "base", arguments.quick)
        for precision in [one for one in ("int8", "float32") if one in wanted or not wanted & {"int8", "float32"}]:
            for name, case in CASES.items():
                if (wanted & set(CASES) and name not in wanted) or (precision == "float32" and case.singles):
                    continue
                for row in rows(work, name, precision, arguments.repeats, kind == "small" and arguments.transformers):
                    row["BLEU"] = None if work.base else scores.of(row.pop("found"))
                    row.pop("found", None)
                    report["rows"].append(row)
                    print("| " + " | ".join(shown(row[column]) for column in COLUMNS) + " |", flush=True)
    if wanted and not wanted & set(EXTRAS):
        return report
    small = place / "small" if (place / "small").exists() else prepared(place / "small", arguments.model, False)
    report["cross-attention cache, bytes by beam"] = cache_bytes(small, sources[0])
    original = (arguments.model / "model.safetensors").stat().st_size
    report["int8 file, share of float32"] = (small / "packed-int8").stat().st_size / original
    report["seconds of pellucid translate on one word, int8"] = cold_start(arguments.model)
    for title in list(report)[1:]:
        print(f"{title}: {report[title]}")
    return report


def main() -> None:
    """Read the arguments."""
    names = [*MODELS, "int8", "float32", *CASES, *EXTRAS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--limit", type=int, default=1000, help="texts at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=[], help="models, precisions, work, or what stands below"
    )
    parser.add_argument("--quick", action="store_true", help="few texts and one run: to see that it works")
    parser.add_argument("--no-transformers", dest="transformers", action="store_false")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.limit, arguments.repeats = min(arguments.limit, 128), 1
    with tempfile.TemporaryDirectory() as place:
        report = compare(arguments, Path(place))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
