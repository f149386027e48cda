"""How fast texts are generated, beside CTranslate2 and transformers, on one model and in one call.

    python benchmarks/decode.py MODEL SOURCES [--references FILE] [--limit N] [--repeats N] [--cases NAME ...] [--base]

MODEL is the folder of a Marian checkpoint of Hugging Face, SOURCES a file with a text a line (.gz too). With ``--base``
the model is one of base size (6 + 6 layers, 512 wide, 32,000 words) with random weights, made for the purpose, whose
outputs all have 32 tokens. Needs ``pip install 'pellucid[ctranslate2]' transformers``.

Every system is a process of its own that loads its model once; the processes take turns, so that what else the machine
does falls on all alike, and the median of the repeats counts. Two threads for all (one where it says so). Token
numbers go in and come out; tokenising is not measured. The rule that ends a beam is the same for all: as soon as it
has found as many ended hypotheses as it is wide, each replaced by the next best while it goes on; so is the limit, 128
tokens. Of a peer every setting of threads and batching is tried, and the best counts. Memory is what the process has
used at most, beyond what it had with the model loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT, FIXED = 128, 32
THREADS = 2


@dataclass(frozen=True)
class Case:
    """Work: ``singles`` are handed over one by one, else as batches of 64, sorted by length."""

    title: str
    beam: int
    singles: bool
    threads: int
    share: float
    """Of the texts: slow cases take fewer."""


CASES = {
    "batch-greedy": Case("batches of 64, greedy", 1, False, THREADS, 1.0),
    "batch-beam": Case("batches of 64, beam 5", 5, False, THREADS, 0.6),
    "single-greedy": Case("one at a time, one core, greedy", 1, True, 1, 0.2),
    "single-beam": Case("one at a time, one core, beam 5", 5, True, 1, 0.1),
    "pair-greedy": Case("one at a time, two workers, greedy", 1, True, THREADS, 0.3),
    "pair-beam": Case("one at a time, two workers, beam 5", 5, True, THREADS, 0.15),
}


# ---- the systems, each in a process of its own


def pellucid(model: Path, precision: str, fixed: bool) -> Callable[[Case, list[list[int]], dict[str, Any]], Any]:
    """Ours; ``stop: exact`` is its own default and is measured apart."""
    from pellucid.config import DecodingConfig
    from pellucid.decoding.rules import Sentence, TokenRules
    from pellucid.decoding.search import SearchStats

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    engine = random_engine(model, precision) if fixed else trained_engine(model, precision)
    pad = config["pad_token_id"]
    rules = TokenRules(config["decoder_start_token_id"], config["eos_token_id"], forbidden=(pad,))

    def run(case: Case, sources: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
        lengths = {"max_length": FIXED, "min_length": FIXED - 1} if fixed else {"max_length": LIMIT}
        search = {"stop": "exact"} if options.get("exact") else {"stop": "first_k", "beam": "full"}
        batch = 1 if case.singles else 64
        settings = DecodingConfig.model_validate({"beam_size": case.beam, "batch_size": batch, **lengths, **search})
        asked = [Sentence(settings.limit(len(source)), number) for number, source in enumerate(sources)]

        def go(first: int, end: int, workers: int) -> list[list[int]]:
            found = engine.search(sources[first:end], asked[first:end], settings, rules, SearchStats(), workers)
            return [hypotheses[0].tokens for hypotheses in found]

        if case.singles and case.threads == 1:
            return [go(number, number + 1, 1)[0] for number in range(len(sources))]
        return go(0, len(sources), case.threads)

    return run


def trained_engine(model: Path, precision: str) -> Any:
    """Of a checkpoint with tokenizers."""
    from pellucid.native_loading import load_native

    chosen: Any = precision
    return load_native(model, precision=chosen).engine


def random_engine(model: Path, precision: str) -> Any:
    """Of a checkpoint without."""
    from pellucid.interop.huggingface.architecture import load_model
    from pellucid.native.engine import NativeModel
    from pellucid.native.packing import pack

    loaded, _ = load_model(model)
    weights = {name: parameter.detach().numpy() for name, parameter in loaded.named_parameters()}
    sizes, chosen = (loaded.source_vocab_size, loaded.target_vocab_size), precision
    pack(model / f"packed-{precision}", weights, loaded.config, sizes, chosen)  # type: ignore[arg-type]
    return NativeModel(model / f"packed-{precision}")


def ctranslate2(model: Path, precision: str, fixed: bool) -> Callable[[Case, list[list[int]], dict[str, Any]], Any]:
    """The converted model; numbers go in as the names of tokens, which is how it takes them."""
    import ctranslate2 as library

    folder = model / f"ct2-{precision}"
    words = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
    numbers = {word: number for number, word in enumerate(words)}
    loaded: dict[Any, Any] = {}

    def run(case: Case, sources: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
        key = options["type"], options["inter"], options["intra"]
        if key not in loaded:
            loaded.clear()
            loaded[key] = library.Translator(
                str(folder), compute_type=key[0], inter_threads=key[1], intra_threads=key[2]
            )
        lengths = (
            {"min_decoding_length": FIXED, "max_decoding_length": FIXED} if fixed else {"max_decoding_length": LIMIT}
        )
        given = [[words[number] for number in source] for source in sources]
        search = {"beam_size": case.beam, **lengths}
        if case.singles and case.threads == 1:
            found = [loaded[key].translate_batch([one], **search)[0] for one in given]
        elif case.singles:
            found = loaded[key].translate_batch(given, max_batch_size=1, **search)
        elif options["batch"] == "examples":
            found = loaded[key].translate_batch(given, max_batch_size=64, **search)
        else:
            tokens = 64 * sum(map(len, given)) // len(given)
            found = loaded[key].translate_batch(given, max_batch_size=tokens, batch_type="tokens", **search)
        return [[numbers[word] for word in one.hypotheses[0]] for one in found]

    return run


def transformers(model: Path, precision: str, fixed: bool) -> Callable[[Case, list[list[int]], dict[str, Any]], Any]:
    """``generate`` in float32 with its cache."""
    import torch
    from transformers import MarianMTModel

    torch.set_num_threads(THREADS)
    loaded = MarianMTModel.from_pretrained(model, dtype=torch.float32).eval()
    pad, eos = loaded.config.pad_token_id, loaded.config.eos_token_id

    def run(case: Case, sources: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
        size, found = 1 if case.singles else 64, []
        lengths = {"min_new_tokens": FIXED, "max_new_tokens": FIXED} if fixed else {"max_new_tokens": LIMIT}
        for first in range(0, len(sources), size):
            part = sources[first : first + size]
            longest = max(map(len, part))
            ids = torch.tensor([[*one, *[pad] * (longest - len(one))] for one in part])
            out = loaded.generate(
                ids, attention_mask=(ids != pad).long(), num_beams=case.beam, early_stopping=case.beam > 1, **lengths
            )
            for row in out[:, 1:].tolist():
                found.append(row[: row.index(eos)] if eos in row else row)
        return found

    return run


SYSTEMS = {"pellucid": pellucid, "ctranslate2": ctranslate2, "transformers": transformers}


def memory(name: str) -> float:
    """MiB of this process: VmRSS now, or VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def serve(system: str, model: Path, precision: str, fixed: bool) -> None:
    """Be one of the processes: a line of JSON in for each run, a line out."""
    run = SYSTEMS[system](model, precision, fixed)
    sources = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        case = CASES[asked["case"]]
        count = max(1, round(len(sources) * case.share))
        step = len(sources) / count
        chosen = [sources[int(number * step)] for number in range(count)][: asked.get("most", count)]
        run(case, chosen[:2], asked)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = memory("VmRSS")
        start = time.perf_counter()
        found = run(case, chosen, asked)
        seconds = time.perf_counter() - start
        answer = {
            "rate": len(chosen) / seconds,
            "tokens": sum(map(len, found)) / seconds,
            "memory": memory("VmHWM") - before,
            "found": found if len(chosen) == len(sources) else None,
        }
        out.write(json.dumps(answer) + "\n")
        out.flush()


# ---- the comparison


class Process:
    """One system with one precision."""

    def __init__(self, system: str, model: Path, precision: str, fixed: bool, sources: list[list[int]]) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(THREADS)}
        command = [sys.executable, __file__, "--serve", system, str(model), precision, str(int(fixed))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._send(sources)

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def run(self, **asked: Any) -> dict[str, Any]:
        """One measurement."""
        self._send(asked)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a system has failed; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def choices(name: str, precision: str) -> list[dict[str, Any]]:
    """Every setting of CTranslate2 that may be its best."""
    import ctranslate2 as library

    case = CASES[name]
    types = ["int8", "int8_float32", "int8_bfloat16"] if precision == "int8" else ["float32"]
    types = [kind for kind in types if kind in library.get_supported_compute_types("cpu")]
    shares = [(1, 1)] if case.threads == 1 else [(2, 1), (1, 2)]
    batches = ["examples"] if case.singles else ["examples", "tokens"]
    return [
        {"type": kind, "inter": inter, "intra": intra, "batch": batch}
        for kind in types
        for inter, intra in shares
        for batch in batches
    ]


def best_choice(process: Process, name: str, precision: str) -> dict[str, Any]:
    """The fastest of them, by one short run each."""
    tried = []
    for options in choices(name, precision):
        tried.append((process.run(case=name, most=100, **options)["rate"], json.dumps(options)))
    chosen: dict[str, Any] = json.loads(max(tried)[1])
    return chosen


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def bleu(translator: Any, found: list[list[int]] | None, order: list[int], references: list[str] | None) -> str:
    """Of token numbers in the order of the sources that were measured."""
    if found is None or references is None:
        return ""
    import sacrebleu

    texts = [""] * len(order)
    for place, tokens in zip(order, found, strict=True):
        texts[place] = translator.target_tokenizer.decode(tokens)
    return f"{sacrebleu.corpus_bleu(texts, [references]).score:.2f}"


def base_model(folder: Path, model: Path) -> Path:
    """A Marian of base size with random weights; its tokenizer is only there to be read."""
    import torch
    from transformers import MarianConfig, MarianMTModel

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
    return folder


def convert(model: Path, folder: Path) -> None:
    """CTranslate2's copies, and links to the model's own files."""
    for file in model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    for kind in ("int8", "float32"):
        command = [str(Path(sys.executable).parent / "ct2-transformers-converter"), "--model", str(model)]
        subprocess.run(
            [*command, "--output_dir", str(folder / f"ct2-{kind}"), "--quantization", kind],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure, and print a table."""
    import pellucid as package
    from pellucid.data.lines import read_lines

    translator = package.load(arguments.model, device="cpu")
    texts = list(read_lines(str(arguments.sources)))[: arguments.limit]
    config = translator.settings()
    encoded = [[*translator.source_ids(text, config), translator.source_tokenizer.eos_id] for text in texts]
    order = sorted(range(len(texts)), key=lambda place: -len(encoded[place]))
    sources = [encoded[place] for place in order]
    references = list(read_lines(str(arguments.references)))[: arguments.limit] if arguments.references else None
    convert(base_model(folder / "base", arguments.model) if arguments.base else arguments.model, folder)
    print("| work | precision | system | setting | sentences/s | tokens/s | ratio | BLEU | memory MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for precision in arguments.precisions:
        names = [
            "pellucid",
            "ctranslate2",
            *(["transformers"] if precision == "float32" and arguments.transformers else []),
        ]
        running = {name: Process(name, folder, precision, arguments.base, sources) for name in names}
        for case_name in arguments.cases:
            case = CASES[case_name]
            used = [name for name in names if name != "transformers" or not case.singles]
            options: dict[str, dict[str, Any]] = {name: {} for name in used}
            options["ctranslate2"] = best_choice(running["ctranslate2"], case_name, precision)
            answers: dict[str, list[dict[str, Any]]] = {name: [] for name in used}
            for _ in range(arguments.repeats):
                for name in used:
                    repeats = 1 if name == "transformers" else arguments.repeats
                    if len(answers[name]) < repeats:
                        answers[name].append(running[name].run(case=case_name, **options[name]))
            ours = median([answer["rate"] for answer in answers["pellucid"]])
            if case.beam > 1 and not arguments.base:
                answers["pellucid, exact stopping"] = [running["pellucid"].run(case=case_name, exact=True)]
            for name, given in answers.items():
                rate = median([answer["rate"] for answer in given])
                found = given[-1]["found"]
                row = [case.title, precision, name, " ".join(str(value) for value in options.get(name, {}).values())]
                row += [f"{rate:,.0f}", f"{median([answer['tokens'] for answer in given]):,.0f}", f"{ours / rate:.2f}"]
                row += [bleu(translator, found, order, references), f"{max(answer['memory'] for answer in given):.0f}"]
                print("| " + " | ".join(row) + " |", flush=True)
        for process in running.values():
            process.close()


def main() -> None:
    """Read the arguments."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5] == "1")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=["int8", "float32"], default=["int8", "float32"])
    parser.add_argument("--no-transformers", dest="transformers", action="store_false")
    parser.add_argument("--base", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        compare(arguments, Path(place))


if __name__ == "__main__":
    main()
