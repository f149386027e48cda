"""Tiny checkpoints of fairseq, OpenNMT-py and JoeyNMT in their documented layouts, and what those programs compute.

The programs do not install beside a current PyTorch, so the layout and the order of operations are written down here a
second time, from their published code, without any of ours: :func:`reference_logits` reads the tensors by their names
there. A wrong name, a swapped matrix or norm, or another order shows as another logit.
"""

from __future__ import annotations

import argparse
import io
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

TEXTS = ["the old man reads a book", "two dogs run over the green field", "she", "a child plays in the garden"]
M, H, FF = 16, 4, 24
Tensors = dict[str, Tensor]
Logits = Callable[[Tensors, Tensor, Tensor], Tensor]


def words_of(texts: list[str]) -> list[str]:
    return sorted({word for text in texts for word in text.split()})


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 3) -> Tensors:
    """Tensors by name; norms around 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.2)
        + (1.0 if name.endswith(("norm.weight", "norm_1.weight", "norm_2.weight", "embedding.weight")) else 0.0)
        for name, shape in shapes.items()
    }  # fmt: skip


def linear(shapes: dict[str, tuple[int, ...]], name: str, out: int, into: int, *, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (out, into)
    if bias:
        shapes[f"{name}.bias"] = (out,)


def norm(shapes: dict[str, tuple[int, ...]], name: str) -> None:
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (M,)


# -- the arithmetic, in plain words


def apply_linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))


def apply_norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (M,), t[f"{name}.weight"], t[f"{name}.bias"], eps)


def attend(t: Tensors, names: dict[str, str], x: Tensor, memory: Tensor, *, causal: bool) -> Tensor:
    """One sentence: x [T M], memory [S M]."""
    q, k, v = (
        apply_linear(t, names[part], source).view(-1, H, M // H).transpose(0, 1)
        for part, source in (("q", x), ("k", memory), ("v", memory))
    )
    scores = (q / math.sqrt(M // H)) @ k.transpose(1, 2)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    return apply_linear(t, names["o"], (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), M))


def interleaved(length: int) -> Tensor:
    table = torch.zeros(length, M)
    place = torch.arange(length).float()[:, None]
    frequency = torch.exp(torch.arange(0, M, 2).float() * -(math.log(10000.0) / M))
    table[:, 0::2], table[:, 1::2] = torch.sin(place * frequency), torch.cos(place * frequency)
    return table


def fairseq_positions(length: int) -> Tensor:
    """Row padding_idx + 1 + place of fairseq's table."""
    half = M // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(2, 2 + length).float()[:, None] * frequency[None]
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


# -- fairseq


@dataclass
class Fairseq:
    """One variant of fairseq's Transformer.

    Attributes:
        pre: norms in front of sublayers.
        learned: a table of positions.
        share: "all" matrices are one, or "decoder": input and output of the decoder, or none.
        embedding_norm: one more norm.
        activation: as fairseq calls it.
        old: names of 2018.
        hydra: settings in ``cfg`` and not in ``args``.
    """

    pre: bool = False
    learned: bool = False
    share: str = "none"
    embedding_norm: bool = False
    activation: str = "relu"
    old: bool = False
    hydra: bool = False

    def names(self, layer: str, part: str) -> dict[str, str]:
        return {short: f"{layer}.{part}.{long}" for short, long in
                (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj"))}  # fmt: skip

    def tensors(self, source_size: int, target_size: int) -> Tensors:
        shapes: dict[str, tuple[int, ...]] = {}
        for side, size in (("encoder", source_size), ("decoder", target_size)):
            shapes[f"{side}.embed_tokens.weight"] = (size, M)
            if self.learned:
                shapes[f"{side}.embed_positions.weight"] = (34, M)
            if self.embedding_norm:
                norm(shapes, f"{side}.layernorm_embedding")
            for number in range(2):
                layer = f"{side}.layers.{number}"
                for part in ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn"):
                    for name in self.names(layer, part).values():
                        linear(shapes, name, M, M)
                    norm(shapes, f"{layer}.{part}_layer_norm")
                linear(shapes, f"{layer}.fc1", FF, M)
                linear(shapes, f"{layer}.fc2", M, FF)
                norm(shapes, f"{layer}.final_layer_norm")
            if self.pre:
                norm(shapes, f"{side}.layer_norm")
        shapes["decoder.output_projection.weight"] = (target_size, M)
        found = random_tensors(shapes)
        if self.share == "all":
            found["decoder.embed_tokens.weight"] = found["encoder.embed_tokens.weight"]
        if self.share != "none":
            found["decoder.output_projection.weight"] = found["decoder.embed_tokens.weight"]
        return found

    def logits(self, t: Tensors, source: Tensor, target: Tensor) -> Tensor:
        """Of one sentence: token numbers [S] with </s>, [T] beginning with </s>."""
        function = {"relu": F.relu, "gelu": F.gelu}[self.activation]

        def embed(side: str, tokens: Tensor) -> Tensor:
            x = math.sqrt(M) * t[f"{side}.embed_tokens.weight"][tokens]
            table = t[f"{side}.embed_positions.weight"][2:] if self.learned else fairseq_positions(len(tokens))
            x = x + table[: len(tokens)]
            return apply_norm(t, f"{side}.layernorm_embedding", x, 1e-5) if self.embedding_norm else x

        def sublayer(name: str, x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
            residual = x
            if self.pre:
                x = apply_norm(t, name, x, 1e-5)
            x = residual + block(x)
            return x if self.pre else apply_norm(t, name, x, 1e-5)

        def stack(side: str, x: Tensor, memory: Tensor | None) -> Tensor:
            for number in range(2):
                layer = f"{side}.layers.{number}"
                names = self.names(layer, "self_attn")
                x = sublayer(
                    f"{layer}.self_attn_layer_norm",
                    x,
                    lambda y: attend(t, names, y, y, causal=side == "decoder"),  # noqa: B023
                )
                if memory is not None:
                    cross = self.names(layer, "encoder_attn")
                    x = sublayer(
                        f"{layer}.encoder_attn_layer_norm",
                        x,
                        lambda y: attend(t, cross, y, memory, causal=False),  # noqa: B023
                    )
                x = sublayer(
                    f"{layer}.final_layer_norm", x,
                    lambda y: apply_linear(t, f"{layer}.fc2", function(apply_linear(t, f"{layer}.fc1", y))),  # noqa: B023
                )  # fmt: skip
            return apply_norm(t, f"{side}.layer_norm", x, 1e-5) if self.pre else x

        memory = stack("encoder", embed("encoder", source), None)
        states = stack("decoder", embed("decoder", target), memory)
        return states @ t["decoder.output_projection.weight"].T

    def save(self, folder: Path, *, sentencepiece_text: bool = False, **changes: Any) -> Tensors:
        tables = []
        for language, texts in (("en", TEXTS), ("de", TEXTS if self.share == "all" else TEXTS[:3])):
            if sentencepiece_text:
                model = spm(texts)
                (folder / f"spm.{language}.model").write_bytes(model)
                pieces = pieces_of(model)[3:]
            else:
                pieces = words_of(texts)
            (folder / f"dict.{language}.txt").write_text("".join(f"{piece} 7\n" for piece in pieces))
            tables.append(4 + len(pieces))
        found = self.tensors(*tables)
        settings = {
            "arch": "transformer_iwslt_de_en", "encoder_embed_dim": M, "decoder_embed_dim": M,
            "encoder_ffn_embed_dim": FF, "decoder_ffn_embed_dim": FF, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": H, "decoder_attention_heads": H, "encoder_normalize_before": self.pre,
            "decoder_normalize_before": self.pre, "encoder_learned_pos": self.learned,
            "decoder_learned_pos": self.learned, "activation_fn": self.activation,
            "layernorm_embedding": self.embedding_norm, "share_all_embeddings": self.share == "all",
            "share_decoder_input_output_embed": self.share != "none", "max_source_positions": 32,
            "max_target_positions": 32, "adaptive_softmax_cutoff": None, "adaptive_input": False, **changes,
        }  # fmt: skip
        languages = {"source_lang": "en", "target_lang": "de"}
        stored = OrderedDict(found)
        if not self.learned:
            stored["encoder.embed_positions._float_tensor"] = torch.zeros(1)
        stored["decoder.version"] = torch.tensor([3.0])
        if self.old:
            stored = self._aged(stored)
        content: dict[str, Any] = {"args": None, "cfg": None, "model": stored, "extra_state": {"epoch": 3}}
        if self.hydra:
            task = argparse.Namespace(**languages)
            content["cfg"] = {"model": argparse.Namespace(**settings), "task": task, "bpe": None, "tokenizer": None}
        else:
            content["args"] = argparse.Namespace(**settings, **languages)
        torch.save(content, folder / "checkpoint_best.pt", _use_new_zipfile_serialization=not self.old)
        return found

    def _aged(self, stored: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Joined projections, numbered norms, no output matrix where it is shared: fairseq of 2018."""
        aged: OrderedDict[str, Tensor] = OrderedDict()
        numbers = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}
        for name, tensor in stored.items():
            side = name.split(".")[0]
            if ".q_proj." in name:
                parts = [stored[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                aged[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
            elif ".k_proj." in name or ".v_proj." in name or name.startswith("decoder.output_projection"):
                continue
            elif name.split(".")[-2].endswith("_layer_norm") and ".layers." in name:
                kind = name.split(".")[-2].removesuffix("_layer_norm")
                aged[name.replace(f"{kind}_layer_norm", f"layer_norms.{numbers[side].index(kind)}")] = tensor
            else:
                aged[name] = tensor
        return aged


# -- JoeyNMT


@dataclass
class Joey:
    """One variant of JoeyNMT's Transformer; version 1 says nothing of norms and is pre-norm."""

    placement: str | None = "post"
    tied: bool = False
    scale: bool = True

    @property
    def pre(self) -> bool:
        return self.placement != "post"

    def names(self, layer: str, part: str) -> dict[str, str]:
        return {short: f"{layer}.{part}.{long}" for short, long in
                (("q", "q_layer"), ("k", "k_layer"), ("v", "v_layer"), ("o", "output_layer"))}  # fmt: skip

    def tensors(self, source_size: int, target_size: int) -> Tensors:
        shapes: dict[str, tuple[int, ...]] = {
            "src_embed.lut.weight": (source_size, M), "trg_embed.lut.weight": (target_size, M),
            "decoder.output_layer.weight": (target_size, M),
        }  # fmt: skip
        for side in ("encoder", "decoder"):
            for number in range(2):
                layer = f"{side}.layers.{number}"
                for part in ("src_src_att",) if side == "encoder" else ("trg_trg_att", "src_trg_att"):
                    for name in self.names(layer, part).values():
                        linear(shapes, name, M, M)
                for name in ("layer_norm",) if side == "encoder" else ("x_layer_norm", "dec_layer_norm"):
                    norm(shapes, f"{layer}.{name}")
                norm(shapes, f"{layer}.feed_forward.layer_norm")
                linear(shapes, f"{layer}.feed_forward.pwff_layer.0", FF, M)
                linear(shapes, f"{layer}.feed_forward.pwff_layer.3", M, FF)
            if self.pre:
                norm(shapes, f"{side}.layer_norm")
        found = random_tensors(shapes)
        if self.tied:
            found["decoder.output_layer.weight"] = found["trg_embed.lut.weight"]
        return found

    def logits(self, t: Tensors, source: Tensor, target: Tensor) -> Tensor:
        """Of one sentence: token numbers [S] with </s>, [T] beginning with <s>."""

        def sublayer(name: str, x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
            y = apply_norm(t, name, x, 1e-6) if self.pre else x
            y = block(y) + x
            return y if self.pre else apply_norm(t, name, y, 1e-6)

        def feed(layer: str, x: Tensor) -> Tensor:
            inner = F.relu(apply_linear(t, f"{layer}.feed_forward.pwff_layer.0", x))
            return apply_linear(t, f"{layer}.feed_forward.pwff_layer.3", inner)

        def embed(name: str, tokens: Tensor) -> Tensor:
            return t[f"{name}.lut.weight"][tokens] * (math.sqrt(M) if self.scale else 1) + interleaved(len(tokens))

        x = embed("src_embed", source)
        for number in range(2):
            layer = f"encoder.layers.{number}"
            own = self.names(layer, "src_src_att")
            x = sublayer(f"{layer}.layer_norm", x, lambda y: attend(t, own, y, y, causal=False))  # noqa: B023
            x = sublayer(f"{layer}.feed_forward.layer_norm", x, lambda y: feed(layer, y))  # noqa: B023
        memory = apply_norm(t, "encoder.layer_norm", x, 1e-6) if self.pre else x
        x = embed("trg_embed", target)
        for number in range(2):
            layer = f"decoder.layers.{number}"
            own, cross = self.names(layer, "trg_trg_att"), self.names(layer, "src_trg_att")
            x = sublayer(f"{layer}.x_layer_norm", x, lambda y: attend(t, own, y, y, causal=True))  # noqa: B023
            x = sublayer(f"{layer}.dec_layer_norm", x, lambda y: attend(t, cross, y, memory, causal=False))  # noqa: B023
            x = sublayer(f"{layer}.feed_forward.layer_norm", x, lambda y: feed(layer, y))  # noqa: B023
        x = apply_norm(t, "decoder.layer_norm", x, 1e-6) if self.pre else x
        return x @ t["decoder.output_layer.weight"].T

    def save(self, folder: Path, **changes: Any) -> Tensors:
        tables = []
        for side, texts in (("src", TEXTS), ("trg", TEXTS[:3])):
            table = ["<unk>", "<pad>", "<s>", "</s>", *words_of(texts)]
            (folder / f"{side}_vocab.txt").write_text("\n".join(table) + "\n")
            tables.append(len(table))
        found = self.tensors(*tables)
        stack: dict[str, Any] = {
            "type": "transformer", "num_layers": 2, "num_heads": H, "hidden_size": M, "ff_size": FF, "dropout": 0.1,
            "embeddings": {"embedding_dim": M, "scale": self.scale},
        }  # fmt: skip
        if self.placement is not None:
            stack["layer_norm"] = self.placement
        stack |= changes
        config = {
            "name": "toy",
            "data": {"src": {"lang": "en", "level": "word"}, "trg": {"lang": "de", "level": "word"}},
            "testing": {"beam_size": 4, "beam_alpha": 1.0, "max_output_length": 12},
            "model": {"tied_softmax": self.tied, "encoder": stack, "decoder": stack},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        stored = {**found, "encoder.pe.pe": torch.zeros(1, 50, M), "decoder.pe.pe": torch.zeros(1, 50, M)}
        torch.save({"model_state": stored, "steps": 7, "best_ckpt_score": 1.0}, folder / "best.ckpt")
        return found


# -- OpenNMT-py


class Vocab:
    """Stands for torchtext's class, which no reader here has."""

    def __init__(self, itos: list[str]) -> None:
        self.itos = itos


class Field:
    """Likewise."""

    def __init__(self, vocab: Any) -> None:
        self.vocab = vocab


class TextMultiField:
    """Likewise OpenNMT-py's."""

    def __init__(self, name: str, field: Field) -> None:
        self.fields = [(name, field)]


@dataclass
class OpenNMT:
    """One variant of OpenNMT-py's Transformer."""

    version: int = 3
    gated: bool = False
    biased: bool = True  # the projections of attention
    shared: bool = False

    def names(self, layer: str, part: str) -> dict[str, str]:
        return {short: f"{layer}.{part}.{long}" for short, long in
                (("q", "linear_query"), ("k", "linear_keys"), ("v", "linear_values"),
                 ("o", "final_linear"))}  # fmt: skip

    def stacks(self) -> tuple[tuple[str, str], ...]:
        return (("encoder", "encoder.transformer"), ("decoder", "decoder.transformer_layers"))

    def tensors(self, source_size: int, target_size: int) -> Tensors:
        shapes: dict[str, tuple[int, ...]] = {}
        for (side, stack), size in zip(self.stacks(), (source_size, target_size), strict=True):
            shapes[f"{side}.embeddings.make_embedding.emb_luts.0.weight"] = (size, M)
            for number in range(2):
                layer = f"{stack}.{number}"
                for part in ("self_attn",) if side == "encoder" else ("self_attn", "context_attn"):
                    for name in self.names(layer, part).values():
                        linear(shapes, name, M, M, bias=self.biased)
                for name in ("layer_norm",) if side == "encoder" else ("layer_norm_1", "layer_norm_2"):
                    norm(shapes, f"{layer}.{name}")
                norm(shapes, f"{layer}.feed_forward.layer_norm")
                linear(shapes, f"{layer}.feed_forward.w_1", FF, M)
                linear(shapes, f"{layer}.feed_forward.w_2", M, FF)
                if self.gated:
                    linear(shapes, f"{layer}.feed_forward.w_3", FF, M)
            norm(shapes, f"{side}.layer_norm")
        linear(shapes, "generator", target_size, M)
        found = random_tensors(shapes)
        if self.shared:
            found["generator.weight"] = found["decoder.embeddings.make_embedding.emb_luts.0.weight"]
        return found

    def logits(self, t: Tensors, source: Tensor, target: Tensor) -> Tensor:
        """Of one sentence: token numbers [S] with nothing around them, [T] beginning with <s>."""

        def embed(side: str, tokens: Tensor) -> Tensor:
            x = t[f"{side}.embeddings.make_embedding.emb_luts.0.weight"][tokens]
            return x * math.sqrt(M) + interleaved(len(tokens))

        def feed(layer: str, x: Tensor) -> Tensor:
            normed = apply_norm(t, f"{layer}.feed_forward.layer_norm", x, 1e-6)
            inner = apply_linear(t, f"{layer}.feed_forward.w_1", normed)
            if self.gated:
                inner = F.silu(inner) * apply_linear(t, f"{layer}.feed_forward.w_3", normed)
            else:
                inner = F.relu(inner)
            return apply_linear(t, f"{layer}.feed_forward.w_2", inner) + x

        x = embed("encoder", source)
        for number in range(2):
            layer = f"encoder.transformer.{number}"
            normed = apply_norm(t, f"{layer}.layer_norm", x, 1e-6)
            x = feed(layer, attend(t, self.names(layer, "self_attn"), normed, normed, causal=False) + x)
        memory = apply_norm(t, "encoder.layer_norm", x, 1e-6)
        x = embed("decoder", target)
        for number in range(2):
            layer = f"decoder.transformer_layers.{number}"
            normed = apply_norm(t, f"{layer}.layer_norm_1", x, 1e-6)
            query = attend(t, self.names(layer, "self_attn"), normed, normed, causal=True) + x
            normed = apply_norm(t, f"{layer}.layer_norm_2", query, 1e-6)
            x = feed(layer, attend(t, self.names(layer, "context_attn"), normed, memory, causal=False) + query)
        return apply_linear(t, "generator", apply_norm(t, "decoder.layer_norm", x, 1e-6))

    def save(self, folder: Path, **changes: Any) -> Tensors:
        first = ["<unk>", "<blank>", "<s>", "</s>"]
        source, target = [*first, *words_of(TEXTS)], [*first, *words_of(TEXTS[:3])]
        found = self.tensors(len(source), len(target))
        opt = {
            "encoder_type": "transformer", "decoder_type": "transformer", "model_type": "text", "enc_layers": 2,
            "dec_layers": 2, "heads": H, "transformer_ff": FF, "position_encoding": True, "max_relative_positions": 0,
            "self_attn_type": "scaled-dot", "copy_attn": False, "dropout": [0.1],
            "share_decoder_embeddings": self.shared,
        }  # fmt: skip
        if self.version == 3:
            opt |= {"pos_ffn_activation_fn": "silu" if self.gated else "relu", "add_qkvbias": self.biased}
            opt |= {"layer_norm": "standard", "model_task": "seq2seq", "norm_eps": 1e-6, "num_kv": 0, "transforms": []}
        opt |= changes
        vocab: Any = {"src": source, "tgt": target, "data_task": "seq2seq", "decoder_start_token": "<s>"}
        if self.version == 2:
            vocab = {"src": TextMultiField("src", Field(Vocab(source))),
                     "tgt": TextMultiField("tgt", Field(Vocab(target)))}  # fmt: skip
        elif self.version == 1:
            vocab = [("src", Vocab(source)), ("tgt", Vocab(target))]
        prefix = "" if self.version == 3 else "0."
        generator = {f"{prefix}{part}": found[f"generator.{part}"] for part in ("weight", "bias")}
        stored = {name: tensor for name, tensor in found.items() if not name.startswith("generator.")}
        stored["encoder.embeddings.make_embedding.pe.pe"] = torch.zeros(50, 1, M)
        content = {"model": stored, "generator": generator, "vocab": vocab, "opt": argparse.Namespace(**opt)}
        torch.save(content, folder / "model_step_100.pt")
        return found


# -- subwords


def spm(texts: list[str], **settings: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=40, hard_vocab_limit=False, num_threads=1,
        minloglevel=2, **settings,
    )  # fmt: skip
    return model.getvalue()


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.IdToPiece(number) for number in range(processor.vocab_size())]
