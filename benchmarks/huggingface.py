"""One checkpoint, one text, two programs: the token numbers that transformers' ``generate`` writes, and ours.

    python benchmarks/huggingface.py FOLDER FILE [--beams 1 5] [--limit N]

FILE has one source a line (.gz too). For each beam size it prints how many outputs are the same, token by token, the
time of both, and every sentence that differs, with the scores of both outputs under our model: two outputs whose scores
differ by less than 1e-5 are a near-tie, which rounding decides. Needs ``pip install 'pellucid[dev]'``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import pellucid
from pellucid.data.lines import read_lines
from pellucid.translator import Translator

NEAR = 1e-5
BATCH = 64


def theirs(model: Any, translator: Translator, encoded: list[list[int]], beams: int) -> list[list[int]]:
    """Token numbers of transformers, without the first and from </s> on, in the order of ``encoded``."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    results: list[list[int]] = [[] for _ in encoded]
    eos = translator.target_tokenizer.eos_id
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = translator.batch([encoded[i] for i in chosen], [[] for _ in chosen])
        out = model.generate(batch.source, attention_mask=batch.source_mask.long(), num_beams=beams)[:, 1:].tolist()
        for index, row in zip(chosen, out, strict=True):
            results[index] = row[: row.index(eos)] if eos in row else row
    return results


def score(translator: Translator, source: list[int], target: list[int]) -> float:
    """Σ log p of target and </s> over their number, under our model."""
    with torch.inference_mode():
        batch = translator.batch([source], [target])
        logits = translator.model(batch.source, batch.source_mask, batch.target_in)
        logprobs = logits.double().log_softmax(-1).gather(-1, batch.target_out[..., None])
    return float(logprobs.sum()) / (len(target) + 1)


def main() -> None:
    """Compare, and print what is the same and what is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    texts = [str(line) for line in read_lines(arguments.file)][: arguments.limit]
    translator = pellucid.load(arguments.folder, "cpu")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    encoded = [translator._encode_source(text, number) for number, text in enumerate(texts, 1)]
    rows = [[*ids, translator.source_tokenizer.eos_id] for ids in encoded]
    same = sum(list(tokenizer(text).input_ids) == ids for text, ids in zip(texts, rows, strict=True))
    print(f"sources: {same} of {len(texts)} become the same tokens")
    for beams in arguments.beams:
        start = time.perf_counter()
        expected = theirs(model, translator, encoded, beams)
        middle = time.perf_counter()
        found = [g.hypotheses[0] for g in translator.generate(texts, beam_size=beams)]
        end = time.perf_counter()
        ours = [h.token_ids[: len(h.token_ids) - (h.finish_reason == "eos")] for h in found]
        different = [i for i, (a, b) in enumerate(zip(ours, expected, strict=True)) if a != b]
        print(
            f"beam {beams}: {len(texts) - len(different)} of {len(texts)} outputs are the same; "
            f"transformers {middle - start:.1f} s, pellucid {end - middle:.1f} s"
        )
        for i in different:
            scores = [score(translator, encoded[i], ids) for ids in (ours[i], expected[i])]
            verdict = "near-tie" if abs(scores[0] - scores[1]) < NEAR else "DIFFERENT"
            print(f"  {verdict}: sentence {i + 1}, scores {scores[0]:.7f} (ours), {scores[1]:.7f} (transformers)")


if __name__ == "__main__":
    main()
