"""A tiny model in the layout of Marian's own files, and what Marian computes with it.

Written down from Marian's source (models/transformer.h, layers/output.cpp, graph/node_initializers.cpp) without any of
our code: which arrays there are, [in, out]; the order of operations; sines with log(10000) / (M/2 - 1) between
frequencies; norms with 1e-6; a decoder that begins with an embedding of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from toolkit_twins import TEXTS, attend, pieces_of, spm, words_of
from torch import Tensor

Arrays = dict[str, np.ndarray]
M, H, FF = 16, 4, 24
SETTINGS: dict[str, Any] = {
    "type": "transformer",
    "dim-emb": M,
    "enc-depth": 2,
    "dec-depth": 2,
    "transformer-heads": H,
    "transformer-dim-ffn": FF,
    "transformer-ffn-activation": "swish",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-dropout": 0.1,
    "transformer-train-position-embeddings": False,
    "transformer-tied-layers": [],
    "right-left": False,
    "tied-embeddings": False,
    "tied-embeddings-src": False,
    "tied-embeddings-all": False,
    "version": "v1.12.0",
}


@dataclass
class MarianNpz:
    """One variant.

    Attributes:
        pre: norms in front of sublayers, one on the embeddings, and one at the end of the decoder and encoder.
        tied: ``all``: one matrix; ``target``: input and output of the decoder; ``none``.
        legacy: the output matrix as [M, V], as older versions wrote it.
        files: ``opus``: vocabulary in YAML, SentencePiece models beside it; ``spm``: the vocabulary is a SentencePiece
            model; ``words``: YAML alone.
    """

    pre: bool = False
    tied: str = "all"
    legacy: bool = False
    files: str = "opus"

    def arrays(self, sizes: tuple[int, int]) -> Arrays:
        random = np.random.default_rng(5)
        found: Arrays = {}

        def add(name: str, *shape: int) -> None:
            scale = 0.35 if shape[0] > 1 else 0.2
            base = 1.0 if "_ln_scale" in name else 0.0
            found[name] = (random.standard_normal(shape) * scale + base).astype(np.float32)

        def norm(name: str, mark: str = "_pre" if self.pre else "") -> None:
            add(f"{name}_ln_scale{mark}", 1, M)
            add(f"{name}_ln_bias{mark}", 1, M)

        for side in ("encoder", "decoder"):
            for number in (1, 2):
                for part in ("self",) if side == "encoder" else ("self", "context"):
                    there = f"{side}_l{number}_{part}"
                    for letter in "qkvo":
                        add(f"{there}_W{letter}", M, M)
                        add(f"{there}_b{letter}", 1, M)
                    norm(f"{there}_Wo")
                there = f"{side}_l{number}_ffn"
                for step, (into, out) in enumerate(((M, FF), (FF, M)), 1):
                    add(f"{there}_W{step}", into, out)
                    add(f"{there}_b{step}", 1, out)
                norm(f"{there}_ffn")
            if self.pre:
                norm(f"{side}_emb", "_pre")
                norm(f"{side}_top", "")
        if self.tied == "all":
            add("Wemb", sizes[0], M)
        else:
            add("encoder_Wemb", sizes[0], M)
            add("decoder_Wemb", sizes[1], M)
        if self.tied == "none" and self.legacy:
            add("decoder_ff_logit_out_W", M, sizes[1])
        elif self.tied == "none":
            add("decoder_ff_logit_out_Wt", sizes[1], M)
        add("decoder_ff_logit_out_b", 1, sizes[1])
        return found

    def logits(self, arrays: Arrays, source: Tensor, target: Tensor) -> Tensor:
        """Of one sentence: source numbers [S] with </s>, target numbers [T] without anything in front: [T + 1, V]."""
        a = {name: torch.from_numpy(array) for name, array in arrays.items()}
        t: dict[str, Tensor] = {}
        for name, array in a.items():
            if "_W" in name and f"{name.replace('_W', '_b')}" in a and "logit" not in name:
                t[f"{name}.weight"], t[f"{name}.bias"] = array.T, a[name.replace("_W", "_b")][0]

        def norm(name: str, x: Tensor, mark: str) -> Tensor:
            scale, bias = a[f"{name}_ln_scale{mark}"][0], a[f"{name}_ln_bias{mark}"][0]
            return F.layer_norm(x, (M,), scale, bias, 1e-6)

        def embed(side: str, rows: Tensor) -> Tensor:
            step = math.log(10000.0) / (M / 2 - 1)
            angle = torch.arange(len(rows)).float()[:, None] * torch.exp(torch.arange(M // 2).float() * -step)
            x = math.sqrt(M) * rows + torch.cat([angle.sin(), angle.cos()], 1)
            return norm(f"{side}_emb", x, "_pre") if self.pre else x

        def sublayer(name: str, x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
            if self.pre:
                return x + block(norm(name, x, "_pre"))
            return norm(name, x + block(x), "")

        def stack(side: str, x: Tensor, memory: Tensor | None) -> Tensor:
            for number in (1, 2):
                layer = f"{side}_l{number}"
                names = {
                    part: {letter: f"{layer}_{part}_W{letter}" for letter in "qkvo"} for part in ("self", "context")
                }
                own, cross = names["self"], names["context"]
                causal = side == "decoder"
                x = sublayer(f"{layer}_self_Wo", x, lambda y: attend(t, own, y, y, causal=causal))  # noqa: B023
                if memory is not None:
                    x = sublayer(f"{layer}_context_Wo", x, lambda y: attend(t, cross, y, memory, causal=False))  # noqa: B023

                def feed(y: Tensor, there: str = f"{layer}_ffn") -> Tensor:
                    y = F.silu(y @ a[f"{there}_W1"] + a[f"{there}_b1"])
                    return y @ a[f"{there}_W2"] + a[f"{there}_b2"]

                x = sublayer(f"{layer}_ffn_ffn", x, feed)
            return norm(f"{side}_top", x, "") if self.pre else x

        words = a["Wemb"] if self.tied == "all" else a["encoder_Wemb"]
        written = a["Wemb"] if self.tied == "all" else a["decoder_Wemb"]
        memory = stack("encoder", embed("encoder", words[source]), None)
        rows = torch.cat([torch.zeros(1, M), written[target]])
        states = stack("decoder", embed("decoder", rows), memory)
        output = a["decoder_ff_logit_out_W"].T if self.legacy else a.get("decoder_ff_logit_out_Wt", written)
        return states @ output.T + a["decoder_ff_logit_out_b"]

    def save(self, folder: Path, *, name: str = "model.npz", **changes: Any) -> Arrays:
        """Write the folder that a person has; ``changes`` go into the settings."""
        texts = (TEXTS, TEXTS if self.tied == "all" else TEXTS[:3])
        if self.files == "spm":
            models = [spm(side, bos_id=-1, eos_id=0, unk_id=1) for side in texts]
            for side, model in zip(("src", "trg"), models, strict=True):
                (folder / f"vocab.{side}.spm").write_bytes(model)
            tables, vocabularies = [pieces_of(model) for model in models], ["vocab.src.spm", "vocab.trg.spm"]
        else:
            tables = [
                ["</s>", "<unk>", *self._pieces(folder, side, lines)] for side, lines in zip(SIDES, texts, strict=True)
            ]
            if self.tied == "all":
                tables = [tables[0]] * 2
            vocabularies = ["opus.src.vocab.yml", "opus.trg.vocab.yml"]
            for file, table in zip(vocabularies, tables, strict=True):
                numbered = {piece: number for number, piece in enumerate(table)}
                (folder / file).write_text(yaml.safe_dump(numbered, allow_unicode=True), encoding="utf-8")
        tied = {"tied-embeddings-all": self.tied == "all", "tied-embeddings": self.tied == "target"}
        pre = {"transformer-preprocess": "n", "transformer-postprocess": "da", "transformer-postprocess-top": "n",
               "transformer-postprocess-emb": "nd"} if self.pre else {}  # fmt: skip
        settings = SETTINGS | tied | pre | changes
        arrays = self.arrays((len(tables[0]), len(tables[1])))
        # Marian writes its settings, those of the model alone, as characters, with a zero at the end.
        content = np.frombuffer(yaml.safe_dump(settings).encode() + b"\0", dtype=np.int8)
        np.savez(folder / name, **{**arrays, "special:model.yml": content})
        vocabularies = [f"/home/x/{file}" for file in vocabularies]
        decoder = {"models": [name], "vocabs": vocabularies, "beam-size": 6, "normalize": 1, "relative-paths": True}
        (folder / "decoder.yml").write_text(yaml.safe_dump(decoder))
        return arrays

    def _pieces(self, folder: Path, side: str, texts: list[str]) -> list[str]:
        if self.files == "words":
            return words_of(texts)
        model = spm(texts)
        (folder / f"{side}.spm").write_bytes(model)
        return [*pieces_of(model)[3:], ">>deu<<"]


SIDES = ("source", "target")
