"""A small trace document made up for tests of the page: every field of docs/trace.md, numbers from a seeded generator.

No engine made it, so it says nothing about the engine; it is consistent in itself (weights are the softmax of the
masked scores, which are q·k/√D), so that what the page shows can be compared with it.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

LAYERS, HEADS, GROUPS, SIZE, HIDDEN = 2, 4, 2, 8, 32
SOURCE = ("我", "爱", "中国", "。", "</s>")
TARGET = ("I", "love", "China", ".", "</s>")
SHORTER = ("I", "love", "it", "</s>")

Json = dict[str, Any]


def array(values: np.ndarray, dtype: str = "float32") -> Json:
    """An Array of the document."""
    raw = np.ascontiguousarray(values, {"float32": "<f4", "bool": "?"}[dtype])
    return {
        "dtype": dtype,
        "shape": list(raw.shape),
        "axes": [str(axis) for axis in range(raw.ndim)],
        "b64": base64.b64encode(raw.tobytes()).decode(),
    }


def values(packed: Json) -> np.ndarray:
    """What is in an Array."""
    raw = base64.b64decode(packed["b64"])
    return np.frombuffer(raw, {"float32": "<f4", "bool": "?"}[packed["dtype"]]).reshape(packed["shape"])


def tokens(texts: tuple[str, ...], first: int) -> list[Json]:
    return [{"id": first + at, "piece": text, "text": text, "group": at} for at, text in enumerate(texts)]


def attention(random: np.random.Generator, rows: int, cols: int, mask: np.ndarray | None = None) -> Json:
    found: Json = {"divisor": SIZE**0.5, "attn": [], "scores": [], "q": [], "k": [], "v": []}
    for _ in range(LAYERS):
        q = random.normal(size=(HEADS, rows, SIZE)).astype(np.float32)
        k = random.normal(size=(GROUPS, cols, SIZE)).astype(np.float32)
        scores = q @ np.repeat(k, HEADS // GROUPS, 0).transpose(0, 2, 1) / np.float32(SIZE**0.5)
        covered = scores if mask is None else np.where(mask, scores, -np.inf)
        weights = np.exp(covered - covered.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        for name, one in (("attn", weights), ("scores", scores), ("q", q), ("k", k), ("v", k)):
            found[name].append(array(one))
    return found


def kv(length: int) -> Json:
    a_position = 2 * LAYERS * GROUPS * SIZE * 4
    steps = [
        {
            "new_rows": 1,
            "reused_rows": t,
            "self_len": t + 1,
            "cross_len": len(SOURCE),
            "bytes": {
                "self": a_position * (t + 1),
                "cross": a_position * len(SOURCE),
                "allocated_self": a_position * 16,
                "allocated_cross": a_position * len(SOURCE),
            },
            "formula": {"self": a_position * (t + 1), "cross": a_position * len(SOURCE)},
            "macs": {"cached": 1000 + t, "uncached": (1000 + t) * (t + 1)},
            "ms": {"cached": 1.5, "uncached": 1.5 + t},
        }
        for t in range(length)
    ]
    return {
        "layers": LAYERS,
        "self_kv_heads": GROUPS,
        "cross_kv_heads": GROUPS,
        "head_size": SIZE,
        "bytes_per_number": 4,
        "self_shape": [1, GROUPS, 16, SIZE],
        "cross_shape": [1, GROUPS, len(SOURCE), SIZE],
        "steps": steps,
        "same_ids": True,
        "logp_maxdiff": 1e-7,
    }


def writing(random: np.random.Generator, texts: tuple[str, ...], name: str) -> Json:
    length = len(texts)
    written = tokens(texts, 50)
    causal = np.tril(np.ones((length, length), bool))
    logp = (-random.exponential(0.4, length)).tolist()
    decoder = attention(random, length, length, causal) | {"mask": array(causal, "bool"), "bias": None}
    decoder["unmasked"] = {
        "attn": attention(random, length, length)["attn"],
        "logp": [one - 1 for one in logp],
        "logit_maxdiff": [1.25] * length,
    }
    changes = (-random.exponential(1.0, (len(SOURCE) - 1, length))).tolist()
    rows = (
        [{"token": written[t], "logp": logp[t]}, {"token": tokens(("my",), 9)[0], "logp": -4.0}] for t in range(length)
    )
    return {
        "name": name,
        "text": " ".join(texts[:-1]),
        "tgt": written,
        "input": tokens(("<s>",), 1) + written[:-1],
        "forced": [False] * length,
        "logp": logp,
        "sum_logp": sum(logp),
        "len": length,
        "penalty": float(length),
        "score": sum(logp) / length,
        "finish_reason": "eos",
        "decoder": decoder,
        "cross": attention(random, length, len(SOURCE)) | {"head_align": None},
        "cover": [{"unit": at, "tokens": [at], "logp": logp, "change": change} for at, change in enumerate(changes)],
        "tf": {"input_ids": [], "gold_ids": [], "logp": logp, "argmax_ids": [], "calls": 1, "ms": 4.0},
        "ar": {"ids": [], "logp": logp, "argmax_ids": [], "calls": length, "ms": 12.5, "step_ms": [2.5] * length},
        "maxdiff": {"logits": 1e-5, "logit_max": 12.5, "relative": 8e-7, "logp": 1e-7, "argmax_equal": True},
        "drift": {
            "at": 1,
            "original": written[1],
            "replaced": tokens(("like",), 9)[0],
            "clean_logp": logp,
            "logp": [one - 1 for one in logp],
            "written": written[1:],
            "text": "I like China.",
            "rejoins": None,
        },
        "topk": list(rows),
        "chosen_rank": [0] * length,
        "entropy": [1.0] * length,
        "kv": kv(length),
    }


def search(writings: list[Json]) -> Json:
    nodes: list[Json] = []
    for step, token in enumerate(writings[0]["tgt"]):
        parent = nodes[-3]["id"] if step else None
        for rank, status in enumerate(("finished" if token["text"] == "</s>" else "kept", "stopped", "pruned")):
            total = -0.5 * (step + 1) - rank
            why = {"pruned": {"needed": total + 0.5}, "stopped": {"bound": -0.9, "worst_kept": -0.8}}.get(status)
            node = {"id": len(nodes), "parent": parent, "step": step, "rank": rank, "token": token, "logp": -0.5}
            node |= {"sum_logp": total, "len": step + 1, "penalty": float(step + 1), "score": total / (step + 1)}
            nodes.append(node | {"status": status, "why": why, "group": 0})
    scores = ("text", "sum_logp", "len", "penalty", "score", "finish_reason")
    entries = [
        {"writing": at, "ids": [token["id"] for token in one["tgt"]]} | {name: one[name] for name in scores}
        for at, one in enumerate(writings)
    ]
    best = entries[0] | {"rank": 0, "node": len(nodes) - 3}
    greedy = entries[1] | {"nodes": [0, 3]}
    settings = {"beam_size": 2, "n_best": 1, "limit": 40, "length_penalty": "average", "length_alpha": 1.0}
    settings |= {"stop": "exact", "beam": "narrowing"}
    return settings | {"nodes": nodes, "reorder": [], "steps": [], "nbest": [best], "greedy": greedy, "end": None}


def position(random: np.random.Generator) -> Json:
    S = len(SOURCE)
    angles = np.arange(S)[:, None] / 10000 ** (np.arange(0, HIDDEN, 2) / HIDDEN)
    pe = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(S, HIDDEN).astype(np.float32)
    embedded = random.normal(size=(S, HIDDEN)).astype(np.float32)
    sides = {
        name: {"enc_maxdiff": diff, "logit_maxdiff": diff, "enc_max": 3.0, "logit_max": 12.5, "texts": ["a b", "b a"]}
        for name, diff in (("on", 2.5), ("off", 4e-6))
    }
    permuted = tokens((*SOURCE[-2::-1], SOURCE[-1]), 10)
    return {
        "scheme": "sinusoidal",
        "added": True,
        "first": 0,
        "max_length": None,
        "beyond": {"length": 513, "error": None},
        "scale": 4.0,
        "tok_emb": array(embedded),
        "pe": array(pe),
        "input": array(embedded * 4 + pe),
        "normed": None,
        "formula": array(pe),
        "rotary": None,
        "bias": None,
        "ablation": {"perm": [3, 2, 1, 0, 4], "permuted": permuted} | sides,
    }


def sample() -> Json:
    """The document."""
    random = np.random.default_rng(4)
    writings = [writing(random, TARGET, "hypothesis"), writing(random, SHORTER, "greedy")]
    groups = [head * GROUPS // HEADS for head in range(HEADS)]
    a_position = 2 * LAYERS * SIZE * 4
    held = {"self": len(TARGET), "cross": len(SOURCE)}
    sizes = {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "heads": HEADS, "head_size": SIZE}
    sizes |= {f"{use}_kv_heads": GROUPS for use in ("encoder", "self", "cross")}
    sizes |= {
        "hidden_size": HIDDEN,
        "ff_size": 64,
        "source_vocab_size": 99,
        "target_vocab_size": 99,
        "parameters": 12345,
    }
    cached = {heads: {use: a_position * heads * length for use, length in held.items()} for heads in (1, 2, 4)}
    return {
        "format": "pellucid-trace",
        "schema": 1,
        "source": "recorded",
        "id": "sample",
        "created": "2026-01-01T00:00:00Z",
        "engine_version": "0",
        "model": "made-up",
        "checkpoint_sha": "0" * 64,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "config": {},
        "sizes": sizes,
        "request": {"text": "我爱中国。"},
        "src": tokens(SOURCE, 10),
        "source_units": [{"text": text, "tokens": [at]} for at, text in enumerate(SOURCE[:-1])],
        "position": position(random),
        "encoder": attention(random, len(SOURCE), len(SOURCE)) | {"pad_mask": [True] * len(SOURCE)},
        "writings": writings,
        "search": search(writings),
        "gqa": {
            "kind": "grouped",
            "q_to_kv": dict.fromkeys(("encoder", "self", "cross"), groups),
            "bytes_actual": cached[GROUPS],
            "bytes_mha": cached[HEADS],
            "what_if": [{"kv_heads": heads} | both for heads, both in cached.items()],
        },
    }
