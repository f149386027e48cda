"""The systems that decode.py compares, each in a process of its own. It starts them; nobody else does.

    python benchmarks/decode_runners.py SYSTEM MODEL PRECISION FIXED

reads a line of JSON with the sources (token numbers), then one for each run, and answers each with one. FIXED is 1
where every output has ``FIXED_LENGTH`` tokens. Knows token numbers; knows nothing of text, nor what the others do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CASES", "THREADS", "Case", "packed_engine"]

LENGTH_LIMIT, FIXED_LENGTH = 128, 32
THREADS = 2
Run = Callable[["Case", list[list[int]], dict[str, Any]], list[list[int]]]


@dataclass(frozen=True)
class Case:
    """Work: ``singles`` are handed over one by one, else as batches of 64, sorted by length."""

    title: str
    beam: int
    singles: bool
    threads: int
    texts: int
    """How many of the sources; 0: all."""
    base_texts: int
    """How many with the model of base size."""


CASES = {
    "batch-greedy": Case("batches of 64, greedy", 1, False, THREADS, 0, 256),
    "batch-beam": Case("batches of 64, beam 5", 5, False, THREADS, 0, 128),
    "single-greedy": Case("one at a time, one core, greedy", 1, True, 1, 200, 24),
    "single-beam": Case("one at a time, one core, beam 5", 5, True, 1, 120, 12),
    "pair-greedy": Case("one at a time, two workers, greedy", 1, True, THREADS, 300, 48),
    "pair-beam": Case("one at a time, two workers, beam 5", 5, True, THREADS, 160, 16),
}


def pellucid(model: Path, precision: str, fixed: bool) -> Run:
    """Ours. 64 sentences are alive in all, whatever the number of workers."""
    from pellucid.config import DecodingConfig
    from pellucid.decoding.rules import Sentence, TokenRules
    from pellucid.decoding.search import SearchStats

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    engine = packed_engine(model, precision)
    pad = config["pad_token_id"]
    rules = TokenRules(config["decoder_start_token_id"], config["eos_token_id"], forbidden=(pad,))

    def run(case: Case, sources: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
        lengths = {"max_length": LENGTH_LIMIT}
        if fixed:
            lengths = {"max_length": FIXED_LENGTH, "min_length": FIXED_LENGTH - 1}
        search = {"stop": "exact"} if options.get("exact") else {"stop": "first_k", "beam": "full"}
        batch = 1 if case.singles else 64 // case.threads
        settings = DecodingConfig.model_validate({"beam_size": case.beam, "batch_size": batch, **lengths, **search})
        asked = [Sentence(settings.limit(len(source)), number) for number, source in enumerate(sources)]

        def go(first: int, end: int) -> list[list[int]]:
            found = engine.search(sources[first:end], asked[first:end], settings, rules, SearchStats(), case.threads)
            return [hypotheses[0].tokens for hypotheses in found]

        if case.singles and case.threads == 1:
            return [go(number, number + 1)[0] for number in range(len(sources))]
        return go(0, len(sources))

    return run


def packed_engine(model: Path, precision: str) -> Any:
    """The engine of a Marian checkpoint, whose packed weights are kept beside it; no tokenizers are needed."""
    from pellucid.native.engine import NativeModel

    packed = model / f"packed-{precision}"
    if not packed.exists():
        from pellucid.interop.huggingface.architecture import load_model
        from pellucid.native.packing import pack

        loaded, _ = load_model(model)
        weights = {name: parameter.detach().numpy() for name, parameter in loaded.named_parameters()}
        chosen: Any = precision
        pack(packed, weights, loaded.config, (loaded.source_vocab_size, loaded.target_vocab_size), chosen)
    return NativeModel(packed)


def ctranslate2(model: Path, precision: str, fixed: bool) -> Run:
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
        search = {"beam_size": case.beam, "max_decoding_length": FIXED_LENGTH if fixed else LENGTH_LIMIT}
        if fixed:
            search["min_decoding_length"] = FIXED_LENGTH
        given = [[words[number] for number in source] for source in sources]
        if case.singles and case.threads == 1:
            found = [loaded[key].translate_batch([one], **search)[0] for one in given]
        elif case.singles:
            found = loaded[key].translate_batch(given, max_batch_size=1, **search)
        elif options["batch"] == "tokens":
            tokens = 64 * sum(map(len, given)) // len(given)
            found = loaded[key].translate_batch(given, max_batch_size=tokens, batch_type="tokens", **search)
        else:
            found = loaded[key].translate_batch(given, max_batch_size=int(options["batch"]), **search)
        return [[numbers[word] for word in one.hypotheses[0]] for one in found]

    return run


def transformers(model: Path, precision: str, fixed: bool) -> Run:
    """``generate`` in float32 with its cache."""
    import torch
    from transformers import MarianMTModel

    torch.set_num_threads(THREADS)
    loaded = MarianMTModel.from_pretrained(model, dtype=torch.float32).eval()
    pad, eos = loaded.config.pad_token_id, loaded.config.eos_token_id

    def run(case: Case, sources: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
        size, found = 1 if case.singles else 64, []
        lengths = {"max_new_tokens": FIXED_LENGTH if fixed else LENGTH_LIMIT}
        if fixed:
            lengths["min_new_tokens"] = FIXED_LENGTH
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


def spread(sources: list[list[int]], count: int) -> list[list[int]]:
    """So many of them, from all over."""
    count = min(count or len(sources), len(sources))
    return [sources[int(number * len(sources) / count)] for number in range(count)]


def serve(system: str, model: Path, precision: str, fixed: bool) -> None:
    """Answer until there is nothing more to read."""
    run = SYSTEMS[system](model, precision, fixed)
    sources = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        case = CASES[asked["case"]]
        chosen = spread(sources, asked["texts"])
        run(case, spread(sources, asked.get("warm", 2)), asked)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = memory("VmRSS")
        start = time.perf_counter()
        found = run(case, chosen, asked)
        seconds = time.perf_counter() - start
        answer = {
            "seconds": seconds,
            "rate": len(chosen) / seconds,
            "tokens": sum(map(len, found)) / seconds,
            "memory": memory("VmHWM") - before,
            "found": found if len(chosen) == len(sources) else None,
        }
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
