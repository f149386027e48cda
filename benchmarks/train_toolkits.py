"""The toolkits that ``benchmarks/train.py`` compares with, each by its own entry point; see train_runners.py.

They do all by themselves, with the settings that are written here; only the ends of their updates are listened to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train_runners import CLIP, DROPOUT, FF, HEADS, HIDDEN, LAYERS, RATE, SMOOTHING, Marks, marian, padded, read_data

CELLS = {"eole": 1.1, "joeynmt": 2.05}
"""Cells (padding included) that their updates get for as many real tokens as pellucid's have; found by trying.

JoeyNMT does not put pairs of similar lengths together: on Multi30k less than half of its cells are text.
"""


class FinishedError(Exception):
    """Enough has been measured."""


def seq2seq(task: dict[str, Any]) -> dict[str, Any]:
    """``Seq2SeqTrainer``, with batches of similar lengths and as many pairs as the others have on average."""
    import torch
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    torch.set_num_threads(task["threads"])
    data = read_data(task)
    special, waiting = data["specials"], []
    marks = Marks(task, data["vocabulary"])
    pairs = [
        {"input_ids": [*source, special["eos"]], "labels": [*target, special["eos"]]}
        for source, target in zip(data["sources"], data["targets"], strict=True)
    ]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        waiting.append([(len(row["input_ids"]), len(row["labels"])) for row in rows])  # it collates one batch ahead
        source = padded([row["input_ids"] for row in rows], special["pad"])
        return {
            "input_ids": source,
            "attention_mask": (source != special["pad"]).long(),
            "labels": padded([row["labels"] for row in rows], -100),
            "decoder_input_ids": padded([[special["bos"], *row["labels"][:-1]] for row in rows], special["pad"]),
        }

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            control.should_training_stop = marks.add(waiting.pop(0))

    settings = Seq2SeqTrainingArguments(
        output_dir=str(Path(task["work"]) / "seq2seq"),
        per_device_train_batch_size=round(len(pairs) * task["epochs"] / len(data["batches"])),
        train_sampling_strategy="group_by_length",
        num_train_epochs=1000,
        learning_rate=RATE,
        label_smoothing_factor=SMOOTHING,
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        bf16=task["precision"] == "bfloat16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = marian(data, task["attention"])
    Seq2SeqTrainer(model=model, args=settings, train_dataset=pairs, data_collator=collate, callbacks=[Watch()]).train()
    return marks.result()


def eole(task: dict[str, Any]) -> dict[str, Any]:
    """Eole's transformer."""
    import torch
    from eole.bin.run.train import train
    from eole.config.run import TrainConfig
    from eole.trainer import Trainer

    torch.set_num_threads(task["threads"])
    data, work = read_data(task), Path(task["work"])
    marks = Marks(task, data["vocabulary"])
    never = 10**6
    step = Trainer._train_step

    def watched(self: Any, batches: Any, *rest: Any, **named: Any) -> None:
        step(self, batches, *rest, **named)
        lengths: list[tuple[int, int]] = []
        for batch in batches:
            targets = (batch["tgt"][:, 1:] != self.train_loss.padding_idx).sum(1).tolist()
            lengths += zip(batch["srclen"].tolist(), targets, strict=True)
        if marks.add(lengths):
            raise FinishedError

    Trainer._train_step = watched
    vocabulary = str(work / "vocabulary.txt")
    config = TrainConfig(
        seed=1,
        share_vocab=True,
        src_vocab=vocabulary,
        tgt_vocab=vocabulary,
        report_every=50,
        save_data=str(work / "eole"),
        overwrite=True,
        data={"corpus": {"path_src": str(work / "train.sources"), "path_tgt": str(work / "train.targets")}},
        model={
            "architecture": "transformer",
            "hidden_size": HIDDEN,
            "layers": LAYERS,
            "heads": HEADS,
            "transformer_ff": FF,
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "embeddings": {"word_vec_size": HIDDEN, "position_encoding_type": "SinusoidalInterleaved"},
        },
        training={
            "model_path": str(work / "eole-model"),
            "compute_dtype": {"float32": "fp32", "bfloat16": "bf16"}[task["precision"]],
            "batch_type": "tokens",
            "batch_size": round(data["budget"] * CELLS["eole"]),
            "bucket_size": len(data["sources"]),
            "num_workers": task["workers"],
            "optim": "adam",
            "learning_rate": RATE,
            "adam_beta2": 0.98,
            "dropout": [DROPOUT],
            "attention_dropout": [0.0],
            "label_smoothing": SMOOTHING,
            "normalization": "tokens",
            "max_grad_norm": CLIP,
            "param_init_method": "xavier_uniform",
            "log_attention_entropy": False,
            "train_steps": never,
            "valid_steps": never,
            "save_checkpoint_steps": never,
        },
    )
    try:
        train(config)
    except FinishedError:
        return marks.result()
    raise SystemExit("Eole has ended before its time")


def joeynmt(task: dict[str, Any]) -> dict[str, Any]:
    """JoeyNMT's transformer; its dropout is also on attention weights and inside feed-forward blocks, inseparably."""
    import torch
    from joeynmt.training import TrainManager, train

    torch.set_num_threads(task["threads"])
    data, work = read_data(task), Path(task["work"])
    marks = Marks(task, data["vocabulary"])
    step, last = TrainManager._train_step, []

    def watched(self: Any, batch: Any) -> Any:
        # The optimiser's step comes behind this one, so an update ends where the next begins.
        if last and marks.add(last.pop()):
            raise FinishedError
        targets = batch.trg_mask.sum((1, 2)).tolist()
        last.append(list(zip(batch.src_length.tolist(), targets, strict=True)))
        return step(self, batch)

    TrainManager._train_step = watched
    side = {"level": "word", "voc_file": str(work / "vocabulary.txt"), "max_length": 256}
    layers = {"type": "transformer", "num_layers": LAYERS, "num_heads": HEADS, "hidden_size": HIDDEN, "ff_size": FF}
    part = {**layers, "dropout": DROPOUT, "embeddings": {"embedding_dim": HIDDEN, "scale": True, "dropout": DROPOUT}}
    folder = work / "joeynmt"
    folder.mkdir(exist_ok=True)
    config = {
        "name": "benchmark",
        "model_dir": str(folder),
        "use_cuda": False,
        "random_seed": 1,
        "data": {
            "train": str(work / "train"),
            "dev": str(work / "dev"),
            "dataset_type": "plain",
            "src": {"lang": "sources", **side},
            "trg": {"lang": "targets", **side},
        },
        "testing": {},
        "training": {
            "optimizer": "adam",
            "learning_rate": RATE,
            "adam_betas": [0.9, 0.98],
            "batch_size": round(data["budget"] * CELLS["joeynmt"]),
            "batch_type": "token",
            "normalization": "tokens",
            "label_smoothing": SMOOTHING,
            "clip_grad_norm": CLIP,
            "scheduling": "warmupinversesquareroot",
            "learning_rate_warmup": 400,
            "learning_rate_min": 0.0,
            "epochs": 1000,
            "validation_freq": 10**6,
            "logging_freq": 100,
        },
        "model": {
            "tied_embeddings": True,
            "tied_softmax": True,
            "initializer": "xavier_uniform",
            "embed_initializer": "xavier_uniform",
            "bias_initializer": "zeros",
            "encoder": {**part},
            "decoder": {**part},
        },
    }
    try:
        train(rank=0, world_size=None, cfg=config, skip_test=True)
    except FinishedError:
        return marks.result()
    raise SystemExit("JoeyNMT has ended before its time")


RUNNERS = {"seq2seq": seq2seq, "eole": eole, "joeynmt": joeynmt}
