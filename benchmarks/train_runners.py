"""The systems that ``benchmarks/train.py`` compares, each in a process and a Python of its own.

    python benchmarks/train_runners.py NAME TASK.json RESULT.json

TASK says what to do and where the data is. Only the standard library is imported above the functions: the Pythons of
the peers have no pellucid. Of every update three things are written down: the time of its end, its real target tokens,
and the FLOPs that the model needs for its real tokens; padding is in neither.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN, FF, LAYERS, HEADS = 256, 1024, 3, 4
DROPOUT, SMOOTHING, RATE, CLIP = 0.1, 0.1, 5e-4, 1.0
CHUNK = 1024  # rows of logits that the tuned loop holds at once


def flops(source: int, target: int, vocabulary: int) -> int:
    """Of a pair, forward and backward: matrix products of real tokens, attention over what may be attended to.

    A matrix of n numbers costs 2·n a token forward and twice that backward.
    """
    square, wide = HIDDEN * HIDDEN, 2 * HIDDEN * FF
    encoder = source * (4 * square + wide) + 2 * HIDDEN * source * source
    decoder = target * (6 * square + wide) + source * 2 * square  # keys and values of the source
    decoder += 2 * HIDDEN * (target * (target + 1) // 2 + target * source)
    return 6 * (LAYERS * (encoder + decoder) + target * HIDDEN * vocabulary)


class Marks:
    """The ends of updates; the first updates are not counted, for ``warm_up`` seconds behind the end of the first."""

    def __init__(self, task: dict[str, Any], vocabulary: int) -> None:
        self.warm_up, self.seconds, self.vocabulary = task["warm_up"], task["seconds"], vocabulary
        self.updates: list[tuple[float, int, int]] = []
        self.first: int | None = None
        self.pairs = 0

    def add(self, lengths: list[tuple[int, int]]) -> bool:
        """An update with pairs of these lengths (source, target) has ended; whether it was the last one asked for."""
        now = time.perf_counter()
        tokens = sum(target for _, target in lengths)
        self.updates.append((now, tokens, sum(flops(*pair, self.vocabulary) for pair in lengths)))
        if self.first is None:
            if now - self.updates[0][0] >= self.warm_up:
                self.first = len(self.updates) - 1
            return False
        self.pairs += len(lengths)
        return now - self.updates[self.first][0] >= self.seconds

    def result(self) -> dict[str, Any]:
        """Rates of what was counted."""
        assert self.first is not None
        start, counted = self.updates[self.first][0], self.updates[self.first + 1 :]
        seconds, tokens = counted[-1][0] - start, sum(update[1] for update in counted)
        return {
            "tokens_per_second": tokens / seconds,
            "flops_per_second": sum(update[2] for update in counted) / seconds,
            "flops_per_token": sum(update[2] for update in counted) / tokens,
            "tokens_per_update": tokens / len(counted),
            "pairs_per_update": self.pairs / len(counted),
            "updates": len(counted),
            "warm_up_updates": self.first + 1,
        }


# ---- pellucid: text to batches, and its own training run


def pellucid_config(task: dict[str, Any], folder: str) -> Any:
    """The run; validation and saving are put off, as they are for all."""
    from pellucid.config import load_config

    names = {part: {"source": f"{part}.en.gz", "target": f"{part}.de.gz"} for part in ("train", "val")}
    never = 10**6
    values: dict[str, Any] = {
        "output": folder,
        "data": {"dir": task["data"], "train": names["train"], "dev": names["val"]},
        "tokenizer": {"vocab_size": 8000},
        "model": {"preset": "small", "norm_placement": "post", "dropout": DROPOUT},
        "training": {
            "max_updates": never,
            "batch_tokens": task["budget"],
            "learning_rate": RATE,
            "schedule": "constant",
            "warmup_steps": 0,
            "max_grad_norm": CLIP,
            "label_smoothing": SMOOTHING,
            "validate_every": never,
            "save_every": never,
            "precision": task["precision"],
            "threads": task["threads"],
            "device": "cpu",
        },
    }
    return load_config(None, task["settings"], values)


def prepare_data(task: dict[str, Any]) -> dict[str, Any]:
    """Write token numbers and batches for all, such that an update has about as many target tokens as asked for."""
    from pellucid.data.batches import BatchStream
    from pellucid.data.prepare import prepare

    work = Path(task["work"])
    config = pellucid_config({**task, "budget": task["tokens"]}, str(work / "prepared"))
    tokens = prepare(config, work / "prepared")
    train, tokenizer = tokens.train, tokens.target_tokenizer
    budget = task["tokens"]
    for _ in range(2):  # the share of padding depends on the budget, a little
        stream = BatchStream(train, batch_tokens=budget, seed=config.seed)
        mean = (int(train.target_lengths.sum()) + len(train)) / stream.batches_per_epoch
        budget = round(budget * task["tokens"] / mean / 16) * 16
    stream = BatchStream(train, batch_tokens=budget, seed=config.seed)
    count = task["epochs"] * stream.batches_per_epoch
    data = {
        "vocabulary": tokenizer.vocab_size,
        "specials": {"pad": tokenizer.pad_id, "bos": tokenizer.bos_id, "eos": tokenizer.eos_id},
        "sources": [train.source(number).tolist() for number in range(len(train))],
        "targets": [train.target(number).tolist() for number in range(len(train))],
        "batches": [batch.indices for _, _, batch in itertools.islice(stream, count)],
        "budget": budget,
    }
    (work / "data.json").write_text(json.dumps(data), encoding="utf-8")
    for side in ("sources", "targets"):
        lines = [" ".join(f"t{number}" for number in row) for row in data[side]]
        (work / f"train.{side}").write_text("\n".join([*lines, ""]), encoding="utf-8")
        (work / f"dev.{side}").write_text("\n".join([*lines[:100], ""]), encoding="utf-8")
    words = [f"t{number}" for number in range(tokenizer.vocab_size) if number not in data["specials"].values()]
    (work / "vocabulary.txt").write_text("\n".join([*words, ""]), encoding="utf-8")
    return {"budget": budget, "vocabulary": tokenizer.vocab_size, "batches": stream.batches_per_epoch}


def pellucid(task: dict[str, Any]) -> dict[str, Any]:
    """``pellucid train`` from within: its own malloc settings, threads, checks, batches and loop."""
    import signal

    from pellucid import experiment

    data = read_data(task)
    marks = Marks(task, data["vocabulary"])
    lengths = [pair_lengths(data, batch) for batch in data["batches"]]
    done = False

    class Watch:
        """A reporter that notes each update."""

        def line(self, text: str) -> None:
            """For the log."""
            print(text, file=sys.stderr)

        def progress(self, task: str, update: int, total: int) -> None:
            """An update has ended, if ``task`` is that."""
            nonlocal done
            if task == "training" and not done:
                done = marks.add(lengths[update - 1])
                if done:
                    os.kill(os.getpid(), signal.SIGINT)  # it ends as a person would end it

    progress = experiment.train(pellucid_config(task, str(Path(task["work"]) / "run")), Watch(), overwrite=True)
    expected = sum(tokens for _, tokens, _ in marks.updates)
    if progress.target_tokens != expected:
        raise SystemExit(f"trained on {progress.target_tokens} target tokens, not on the {expected} of the batches")
    return marks.result()


# ---- loops over transformers' Marian


def read_data(task: dict[str, Any]) -> dict[str, Any]:
    """What :func:`prepare_data` wrote."""
    data: dict[str, Any] = json.loads((Path(task["work"]) / "data.json").read_text(encoding="utf-8"))
    return data


def pair_lengths(data: dict[str, Any], batch: list[int]) -> list[tuple[int, int]]:
    """Source and target tokens of a batch's pairs, with </s>."""
    return [(len(data["sources"][number]) + 1, len(data["targets"][number]) + 1) for number in batch]


def marian(data: dict[str, Any], attention: str) -> Any:
    """The model, untrained."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    special = data["specials"]
    layers = dict(encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=FF, decoder_ffn_dim=FF)
    heads = dict(encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, activation_function="relu")
    dropouts = dict(dropout=DROPOUT, attention_dropout=0.0, activation_dropout=0.0)
    config = MarianConfig(
        vocab_size=data["vocabulary"],
        decoder_vocab_size=data["vocabulary"],
        d_model=HIDDEN,
        max_position_embeddings=512,
        scale_embedding=True,
        pad_token_id=special["pad"],
        eos_token_id=special["eos"],
        decoder_start_token_id=special["bos"],
        forced_eos_token_id=special["eos"],
        attn_implementation=attention,
        **layers,
        **heads,
        **dropouts,
    )
    torch.manual_seed(1)
    return MarianMTModel(config).train()


def padded(rows: list[list[int]], pad: int, multiple: int = 1) -> Any:
    """[rows, longest], the longest rounded up to a multiple."""
    import torch

    width = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def marian_batches(data: dict[str, Any], multiple: int = 1) -> Iterator[tuple[list[tuple[int, int]], Any, Any, Any]]:
    """Lengths, source, decoder input and labels, for ever; a batch is padded when its turn comes."""
    special = data["specials"]
    for batch in itertools.cycle(data["batches"]):
        sources = [[*data["sources"][number], special["eos"]] for number in batch]
        targets = [[*data["targets"][number], special["eos"]] for number in batch]
        before = [[special["bos"], *row[:-1]] for row in targets]
        tensors = [padded(rows, special["pad"], multiple) for rows in (sources, before, targets)]
        yield pair_lengths(data, batch), tensors[0], tensors[1], tensors[2]


def marian_plain(task: dict[str, Any]) -> dict[str, Any]:
    """The loop that one writes: the model's forward pass, PyTorch's loss, autocast for bfloat16."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(task["threads"])
    data = read_data(task)
    pad = data["specials"]["pad"]
    model, marks = marian(data, "sdpa"), Marks(task, data["vocabulary"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)
    for lengths, source, before, labels in marian_batches(data):
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bfloat16"):
            logits = model(input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=before).logits
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=pad, label_smoothing=SMOOTHING
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if marks.add(lengths):
            break
    return marks.result()


def use_cheap_dropout() -> None:
    """Take masks from a pool that is drawn once, each time from another place in it."""
    import random

    import torch
    import torch.nn.functional as F

    size = 1 << 25
    keep = (torch.rand(size) >= DROPOUT).float() / (1 - DROPOUT)
    pools = {torch.float32: keep, torch.bfloat16: keep.bfloat16()}

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0.0:
            return input
        assert p == DROPOUT
        start = random.randrange(size - input.numel())
        return input * pools[input.dtype][start : start + input.numel()].view(input.shape)

    F.dropout = dropout


def chunked_loss(states: Any, weight: Any, labels: Any, dtype: Any) -> Any:
    """Σ of the smoothed cross-entropy; its gradients are made on the way, a chunk of logits at a time."""
    import torch

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, states: Any, weight: Any, labels: Any) -> Any:
            low, matrix = states.to(dtype), weight.to(dtype)
            states_gradient, weight_gradient = torch.empty_like(low), torch.zeros_like(weight)
            total = 0.0
            for start in range(0, len(low), CHUNK):
                rows, gold = low[start : start + CHUNK], labels[start : start + CHUNK, None]
                log_probs = torch.mm(rows, matrix.t()).float().log_softmax(-1)
                total -= (1 - SMOOTHING) * log_probs.gather(1, gold).sum().item()
                total -= SMOOTHING * log_probs.mean(1).sum().item()
                gradient = log_probs.exp_().sub_(SMOOTHING / len(matrix))
                gradient.scatter_add_(1, gold, log_probs.new_full(gold.shape, SMOOTHING - 1))
                gradient = gradient.to(dtype)
                torch.mm(gradient, matrix, out=states_gradient[start : start + CHUNK])
                weight_gradient += torch.mm(gradient.t(), rows)
            ctx.save_for_backward(states_gradient, weight_gradient)
            return states.new_tensor(total, dtype=torch.float32)

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> tuple[Any, Any, None]:
            states_gradient, weight_gradient = ctx.saved_tensors
            return (states_gradient * outer[0]).to(states.dtype), weight_gradient * outer[0], None

    return Loss.apply(states, weight, labels)


def marian_tuned(task: dict[str, Any]) -> dict[str, Any]:
    """The same model with all that is known to help: see the table of systems in train.py."""
    import torch

    torch.set_num_threads(task["threads"])
    use_cheap_dropout()
    data = read_data(task)
    pad, dtype = data["specials"]["pad"], getattr(torch, task["precision"])
    model, marks = marian(data, task["attention"]), Marks(task, data["vocabulary"])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), fused=True)
    for lengths, source, before, labels in marian_batches(data, task["multiple"]):
        seen = source != pad
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            states = model.model(
                input_ids=source,
                attention_mask=None if bool(seen.all()) else seen.long(),
                decoder_input_ids=before,
                use_cache=False,
            ).last_hidden_state
        real = labels != pad
        loss = chunked_loss(states[real], model.model.shared.weight, labels[real], dtype)
        (loss / int(real.sum())).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if marks.add(lengths):
            break
    return marks.result()


# ---- the machine


def matmul(task: dict[str, Any]) -> dict[str, Any]:
    """FLOP/s of 1024³ products, the median of five stretches."""
    import torch

    torch.set_num_threads(task["threads"])
    size, dtype = 1024, getattr(torch, task["precision"])
    left, right, out = (torch.randn(size, size).to(dtype) for _ in range(3))
    rates = []
    for stretch in range(6):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.4:
            torch.mm(left, right, out=out)
            count += 1
        if stretch:
            rates.append(2 * size**3 * count / (time.perf_counter() - start))
    return {"flops_per_second": sorted(rates)[len(rates) // 2]}


RUNNERS = {
    "prepare": prepare_data,
    "matmul": matmul,
    "pellucid": pellucid,
    "marian-plain": marian_plain,
    "marian-tuned": marian_tuned,
}


def main(name: str, task: str, result: str) -> None:
    """Be one of the processes."""
    runners = RUNNERS
    if name not in runners:
        import train_toolkits

        runners = train_toolkits.RUNNERS
    answer = runners[name](json.loads(Path(task).read_text(encoding="utf-8")))
    Path(result).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
