"""The questions of the decoding contract, put to transformers, CTranslate2 and pellucid on the same weights in float32.

    python3 -m venv bench && bench/bin/pip install -c constraints.txt -e . transformers ctranslate2 sacremoses
    bench/bin/python benchmarks/contract.py MODEL SOURCES [--sentences 64] [--threads 2] [--output docs]

MODEL is a folder with a Marian checkpoint of Hugging Face, SOURCES a file with a source text a line. The tiny
vocabulary is that of a random Marian model of four words, made for the purpose. With --output the table is written to
contract.md and contract.zh.md in that folder. Measured with transformers 5.23.0 and CTranslate2 4.8.5.

Every system runs with its defaults, except for beam size, number of hypotheses and length penalty, which are the same
for all; the *strict* columns have the setting that makes a system search longest. Answers are compared as lists of
tokens; where two lists differ, a slow search over the teacher-forced pass (pellucid.contract.reference) says how near
to a tie it was, and a gap under 1e-5 is not held against anyone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pellucid.config import DecodingConfig
from pellucid.contract.reference import beam_search, exhaustive, forced, penalised
from pellucid.contract.results import NEAR_TIE
from pellucid.contract.ways import Output
from pellucid.data.lines import read_lines

BEAM = 4
PENALTIES = (("average", 1.0), ("power", 0.6), ("none", 0.0))  # what all three systems have
LIMIT = 40
TINY_LIMIT, TINY_WORDS = 4, 4


class Marian:
    """A Marian checkpoint in transformers: generates, and is the teacher-forced pass that all answers are judged by."""

    def __init__(self, folder: Path, name: str = "transformers", **settings: Any) -> None:
        from transformers import MarianMTModel, MarianTokenizer

        self.name, self.settings = name, settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer = MarianTokenizer.from_pretrained(folder)
        self.model = MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
        config = self.model.config
        self.eos_id, self.pad_id, self.start_id = (
            config.eos_token_id,
            config.pad_token_id,
            config.decoder_start_token_id,
        )
        self.suppressed = (self.pad_id,)

    def encode(self, source: str) -> list[int]:
        """Numbers of the source's tokens, </s> last."""
        return list(self.tokenizer(source).input_ids)

    @torch.inference_mode()
    def parallel(self, sources: Sequence[str], targets: Sequence[Sequence[int]], last: bool = False) -> list[Any]:
        source = self._padded([self.encode(text) for text in sources])
        target = self._padded([[self.start_id, *target[:-1]] for target in targets])
        body = self.model.model(input_ids=source, attention_mask=source != self.pad_id, decoder_input_ids=target)
        states = list(body.last_hidden_state)
        states = [row[: len(target)][-1 if last else 0 :] for row, target in zip(states, targets, strict=True)]
        logits = self.model.lm_head(torch.cat(states)) + self.model.final_logits_bias
        return [part.numpy() for part in logits.split([len(row) for row in states])]

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])

    @torch.inference_mode()
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found: list[list[Output]] = []
        for start in range(0, len(sources), settings["batch_size"]):
            part = sources[start : start + settings["batch_size"]]
            found += self._generate(self._padded([self.encode(text) for text in part]), settings)
        return found

    def _generate(self, source: torch.Tensor, settings: dict[str, Any]) -> list[list[Output]]:
        beam, n_best, alpha = settings["beam_size"], settings["n_best"], settings["length_alpha"]
        search = {"num_return_sequences": n_best, "length_penalty": alpha, **self.settings} if beam > 1 else {}
        result = self.model.generate(
            input_ids=source,
            attention_mask=(source != self.pad_id).long(),
            num_beams=beam,
            max_new_tokens=settings["max_length"],
            max_length=None,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            **search,
        )
        logprobs = self.model.compute_transition_scores(
            result.sequences, result.scores, getattr(result, "beam_indices", None), normalize_logits=beam == 1
        )
        outputs = []
        for row, (tokens, values) in enumerate(zip(result.sequences[:, 1:].tolist(), logprobs.tolist(), strict=True)):
            length = tokens.index(self.eos_id) + 1 if self.eos_id in tokens else len(tokens)
            score = penalised(sum(values[:length]), length, "power", alpha)
            if beam > 1:
                score = float(result.sequences_scores[row])
            reason = "eos" if self.eos_id in tokens else "length"
            outputs.append(Output(tuple(tokens[:length]), tuple(values[:length]), score, reason))
        return [outputs[start : start + n_best] for start in range(0, len(outputs), n_best)]


class CTranslate2:
    """The same checkpoint, converted; it gives scores of hypotheses, not of their tokens."""

    def __init__(self, folder: Path, work: Path, marian: Marian, threads: int, name: str, **settings: Any) -> None:
        import ctranslate2

        self.name, self.settings, self.marian = name, settings, marian
        place = work / f"ctranslate2-{folder.name}"
        if not place.exists():
            ctranslate2.converters.TransformersConverter(str(folder)).convert(str(place), quantization="float32")
        self.translator = ctranslate2.Translator(str(place), compute_type="float32", intra_threads=threads)
        self.pieces = {number: piece for piece, number in json.loads((folder / "vocab.json").read_text()).items()}
        self.numbers = {piece: number for number, piece in self.pieces.items()}

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = []
        for start in range(0, len(sources), settings["batch_size"]):
            part = sources[start : start + settings["batch_size"]]
            results = self.translator.translate_batch(
                [[self.pieces[token] for token in self.marian.encode(text)] for text in part],
                max_batch_size=0,
                beam_size=settings["beam_size"],
                num_hypotheses=settings["n_best"],
                length_penalty=settings["length_alpha"],
                max_decoding_length=settings["max_length"],
                return_scores=True,
                return_end_token=True,
                **self.settings,
            )
            found += [
                [self._output(tokens, score) for tokens, score in zip(result.hypotheses, result.scores, strict=True)]
                for result in results
            ]
        return found

    def _output(self, pieces: Sequence[str], score: float) -> Output:
        tokens = tuple(self.numbers[piece] for piece in pieces)
        return Output(tokens, (), score, "eos" if tokens[-1:] == (self.marian.eos_id,) else "length")


class Pellucid:
    """The same checkpoint, loaded by pellucid; token numbers are translated by their pieces."""

    def __init__(self, folder: Path, marian: Marian) -> None:
        import pellucid

        self.name, self.marian = "pellucid", marian
        self.translator = pellucid.load(folder, "cpu")
        self.numbers = json.loads((folder / "vocab.json").read_text())

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        # Pellucid's own defaults, not those that it takes over from the checkpoint (to do as transformers does).
        plain = {**DecodingConfig().model_dump(), "length_penalty": "power"}
        found = self.translator.generate(list(sources), **{**plain, **settings})
        return [[self._output(hypothesis) for hypothesis in each.hypotheses] for each in found]

    def _output(self, found: Any) -> Output:
        tokens = tuple(self.numbers[piece] for piece in found.tokens)
        return Output(tokens, tuple(found.token_logprobs), found.score, found.finish_reason)


@dataclass
class Cell:
    """How often an answer was the right one, how often only a near-tie away, and how far numbers were off."""

    same: int = 0
    near: int = 0
    other: int = 0
    worst: float | None = None
    examples: list[str] = field(default_factory=list)

    def text(self, language: str = "en") -> str:
        """For the table."""
        near, worst, comma = {"en": ("near-ties", "worst", ", "), "zh": ("近似平局", "最大", "，")}[language]
        parts = [f"{self.same}/{self.same + self.near + self.other}"]
        if self.near:
            parts.append(f"{near} {self.near}")
        if self.worst is not None:
            parts.append(f"{worst} {self.worst:.0e}")
        return comma.join(parts)


class Questions:
    """Everything that is asked of one system. ``judge`` is the teacher-forced pass that decides."""

    def __init__(self, way: Any, judge: Marian, sources: list[str]) -> None:
        self.way, self.judge, self.sources = way, judge, sources
        self.settings: dict[str, Any] = dict(
            beam_size=BEAM, n_best=BEAM, length_alpha=1.0, max_length=LIMIT, batch_size=1
        )
        self.alone = way.generate(sources, **self.settings)

    def _same(
        self, cell: Cell, source: str, found: list[Output], expected: list[Output], gap: Callable[[], float]
    ) -> None:
        if [o.tokens for o in found] == [o.tokens for o in expected]:
            cell.same += 1
        elif gap() < NEAR_TIE:
            cell.near += 1
        else:
            cell.other += 1
            cell.examples.append(f"{source!r}: {found[:1]} instead of {expected[:1]}")

    def _compare(self, cell: Cell, source: str, found: list[Output], expected: list[Output]) -> None:
        def gap() -> float:
            longest = max(len(output.tokens) for output in [*found, *expected]) + 1
            return beam_search(
                self.judge, [source], max_length=longest, beam_size=BEAM, n_best=BEAM, penalty="power", alpha=1.0
            )[0].gap

        self._same(cell, source, found, expected, gap)
        if [o.tokens for o in found] == [o.tokens for o in expected]:
            off = [abs(one.score - other.score) / abs(other.score) for one, other in zip(found, expected, strict=True)]
            cell.worst = max(cell.worst or 0.0, *off)

    def batch_size(self) -> Cell:
        cell = Cell()
        for size in (8, 64):
            found = self.way.generate(self.sources, **{**self.settings, "batch_size": size})
            for source, outputs, expected in zip(self.sources, found, self.alone, strict=True):
                self._compare(cell, source, outputs, expected)
        return cell

    def order(self) -> Cell:
        cell = Cell()
        order = random.Random(3).sample(range(len(self.sources)), len(self.sources))
        found = self.way.generate([self.sources[i] for i in order], **{**self.settings, "batch_size": 8})
        for index, outputs in zip(order, found, strict=True):
            self._compare(cell, self.sources[index], outputs, self.alone[index])
        return cell

    def padding(self) -> Cell:
        cell = Cell()
        longest = max(self.sources, key=len)
        longest = f"{longest} {longest}"
        for start in range(0, len(self.sources), 7):
            part = self.sources[start : start + 7]
            found = self.way.generate([*part, longest], **{**self.settings, "batch_size": 8})
            for source, outputs, expected in zip(part, found, self.alone[start:], strict=False):
                self._compare(cell, source, outputs, expected)
        return cell

    def greedy(self) -> Cell:
        cell = Cell()
        settings = {**self.settings, "beam_size": 1, "n_best": 1, "batch_size": 64}
        found = self.way.generate(self.sources, **settings)
        references = beam_search(
            self.judge, self.sources, max_length=LIMIT, beam_size=1, n_best=1, penalty="power", alpha=1.0
        )
        for source, outputs, reference in zip(self.sources, found, references, strict=True):
            self._same(cell, source, outputs, reference.outputs, lambda gap=reference.gap: gap)
        return cell

    def forced(self) -> Cell:
        cell = Cell(worst=0.0)
        for source, outputs in zip(self.sources, self.alone, strict=True):
            logprobs = forced(self.judge, [source] * len(outputs), [output.tokens for output in outputs])
            scores = [penalised(float(p.sum()), len(p), "power", 1.0) for p in logprobs]
            off = max(abs(o.score - score) / abs(score) for o, score in zip(outputs, scores, strict=True))
            cell.worst = max(cell.worst or 0.0, off)
            distinct = len({output.tokens for output in outputs}) == len(outputs)
            is_sorted = [o.score for o in outputs] == sorted((o.score for o in outputs), reverse=True)
            if off < 1e-4 and distinct and is_sorted:
                cell.same += 1
            else:
                cell.other += 1
                cell.examples.append(f"{source!r}: {outputs} against forced scores {scores}")
        return cell

    def stopping(self, longest: Any) -> Cell:
        """Whether ``longest``, the same system searching longest, knows a better hypothesis than the best found."""
        cell = Cell()
        settings = {**self.settings, "n_best": 1, "batch_size": 64}
        found = self.way.generate(self.sources, **settings)
        if longest is None:  # a search to the limit, by the definition
            best = [
                reference.outputs
                for reference in beam_search(
                    self.judge, self.sources, max_length=LIMIT, beam_size=BEAM, n_best=1, penalty="power", alpha=1.0
                )
            ]
        else:
            best = longest.generate(self.sources, **settings)
        for source, (output, *_), (other, *_) in zip(self.sources, found, best, strict=True):
            scores = [
                penalised(float(p.sum()), len(p), "power", 1.0)
                for p in forced(self.judge, [source] * 2, [output.tokens, other.tokens])
            ]
            self._same(
                cell, source, [output], [other] if scores[1] > scores[0] else [output], lambda s=scores: s[1] - s[0]
            )
        return cell


def exhaustive_questions(way: Any, judge: Marian, sources: Sequence[str]) -> Cell:
    """On four words and </s>: the n best of a beam as wide as all prefixes, against trying everything."""
    cell = Cell(worst=0.0)
    words = [token for token in range(judge.model.config.vocab_size) if token not in (judge.eos_id, judge.pad_id)]
    for penalty, alpha in PENALTIES:
        for n_best in (1, 5):
            width = len(words) ** (TINY_LIMIT - 1) * (len(words) + 1)
            settings = dict(beam_size=width, n_best=n_best, length_alpha=alpha, max_length=TINY_LIMIT, batch_size=1)
            for source in sources:
                (found,) = way.generate([source], **settings)
                reference = exhaustive(
                    judge, source, [*words, judge.eos_id], max_length=TINY_LIMIT, n_best=n_best, penalty=penalty,
                    alpha=alpha, cut_competes=way.name != "pellucid",
                )  # fmt: skip
                if [o.tokens for o in found] == [o.tokens for o in reference.outputs]:
                    cell.same += 1
                    pairs = zip(found, reference.outputs, strict=True)
                    cell.worst = max(cell.worst or 0.0, *(abs(a.score - b.score) / abs(b.score) for a, b in pairs))
                elif reference.gap < NEAR_TIE:
                    cell.near += 1
                else:
                    cell.other += 1
                    cell.examples.append(f"{source!r}, {penalty}, {n_best}: {found[:2]} not {reference.outputs[:2]}")
    return cell


def make_tiny(real: Path, folder: Path) -> Path:
    """A random Marian model of four words, in the form that all three systems read."""
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir()
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(real / name, folder / name)
    vocabulary = {"</s>": 0, "<unk>": 1, "▁a": 2, "▁the": 3, "▁in": 4, "<pad>": 5}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    about = json.loads((real / "tokenizer_config.json").read_text())
    about["added_tokens_decoder"] = {
        str(vocabulary[entry["content"]]): entry for entry in about["added_tokens_decoder"].values()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    torch.manual_seed(5)
    config = MarianConfig(
        vocab_size=6, decoder_vocab_size=6, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="relu", eos_token_id=0,
        pad_token_id=5, decoder_start_token_id=5, forced_eos_token_id=None, scale_embedding=True, init_std=0.2,
        max_position_embeddings=64,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        model.final_logits_bias[0, 5] = -1e4
    model.generation_config.forced_eos_token_id = None
    model.generation_config.bad_words_ids = [[5]]
    model.save_pretrained(folder)
    return folder


ROWS: dict[str, tuple[str, str]] = {
    "batch_size": ("batch size 1 = 8 = 64", "批大小 1 = 8 = 64"),
    "order": ("order and neighbours in the batch", "批内的次序与同批句子"),
    "padding": ("padding by a long neighbour", "较长的同批句子带来的填充"),
    "greedy": ("a beam of 1 = the most probable token", "集束宽度为 1 = 每步取最可能的词元"),
    "forced": ("n-best: sorted, distinct, scores = forced scores", "n-best：有序、互异、得分等于强制打分"),
    "exhaustive": ("tiny vocabulary: a wide beam = exhaustive search", "极小词表：足够宽的集束 = 穷举搜索"),
    "stopping": ("no better hypothesis behind the stop", "停止之后再无更好的假设"),
}

PAGES = {
    "en": """# The decoding contract, asked of three systems

[中文](contract.zh.md)

The twelve items that every way of generating keeps are checked by `pellucid check MODEL` on any model. Here those that
can be asked of any system are put to transformers, CTranslate2 and pellucid: the same weights (a Marian checkpoint of
Hugging Face, {parameters:.1f} M parameters), float32, one machine. A cell says how many answers were right, how many
differed by a near-tie (a gap under 1e-5 in log p at a deciding step, which nobody is blamed for), and the largest relative
difference of scores.

{table}

Asked: {sentences} sources; beam {beam}, {beam} best, length penalty: log p / length, at most {limit} tokens. Tiny
vocabulary: four words and `</s>`, at most {tiny} tokens, a random model of its own, length penalties length, length^0.6 and
none, 1 and 5 best, 8 sources.

How to read it:

- **Defaults** are each system's own, except beam size, number of hypotheses, length penalty and limit. **strict** is the
  setting under which a system searches longest: `early_stopping="never"` in transformers, `patience={patience}` in
  CTranslate2, there with `min_decoding_length=0`, which lets `</s>` come first. pellucid's default is exact, so there is no stricter one.
- **Answers compared** are lists of tokens in order. The judge is the teacher-forced pass of transformers' own model: greedy,
  forced and exhaustive answers are computed from it by plain loops that keep no cache and never stop early.
- **Behind the stop**: transformers and CTranslate2 are compared with their own strict setting, pellucid with a search to the
  limit. transformers' default stops when the kept hypotheses are better than the best live one *would be if it ended now*;
  CTranslate2's when as many hypotheses are finished as the beam is wide. Both are choices that save steps, and documented;
  the row counts what they miss.
- **Tiny vocabulary**: in transformers and CTranslate2 a hypothesis cut by the length limit competes with finished ones; in
  pellucid's default only where none has finished. Each is held to its own definition.
- **Scores**: CTranslate2's default (`min_decoding_length=1`) takes `</s>` out before it computes the first token's
  probabilities, so its scores are those of another distribution at that step; its strict column does not. An answer of the
  row on n-best lists is right if the list is sorted and distinct and no score is off by more than 1e-4 of itself.

{date}, {machine}, Python {python}, {versions}, {threads} threads:

```
{command}
```
""",  # noqa: E501
    "zh": """# 向三个系统提出的解码契约问题

[English](contract.md)

任何生成方式都要遵守的十二条契约，可用 `pellucid check MODEL` 在任何模型上检查。这里把其中可以向任何系统提出的几条，
同样地问 transformers、CTranslate2 和 pellucid：相同的权重（Hugging Face 的 Marian 检查点，{parameters:.1f} M 参数）、
float32、同一台机器。每一格写着有多少个回答正确、有多少个只差一次近似平局（在决定性的一步上 log p 相差不到 1e-5，不归咎于
任何一方），以及得分的最大相对差。

{table}

提问内容：{sentences} 条源句；集束宽度 {beam}，取 {beam} 个最佳假设，长度惩罚为 log p / 长度，最多 {limit} 个词元。极小词表：
四个词和 `</s>`，最多 {tiny} 个词元，另用一个随机模型；长度惩罚取长度、长度^0.6 和无，取 1 个和 5 个最佳假设，8 条源句。

如何阅读：

- **默认**指各系统自己的默认设置，只有集束宽度、假设个数、长度惩罚和长度上限统一给定。**严格**指让该系统搜索得最久的设置：
  transformers 为 `early_stopping="never"`，CTranslate2 为 `patience={patience}`，并设 `min_decoding_length=0`，使 `</s>` 可以出现在开头。pellucid 的默认设置就是精确停止，没有更严格的。
- **比较的回答**是依次排列的词元列表。裁判是 transformers 自己模型的教师强制前向计算：贪婪、强制打分和穷举的答案都由它出发，
  用不带缓存、从不提前停止的简单循环算出。
- **停止之后**：transformers 和 CTranslate2 与它们自己的严格设置相比，pellucid 与一直搜索到上限的结果相比。transformers 默认在
  保留的假设优于最好的未完成假设“若此刻结束”的得分时停止；CTranslate2 默认在完成的假设数达到集束宽度时停止。二者都是为节省
  步数而作的选择，文档中均有说明；这一行数的是它们因此错过了多少。
- **极小词表**：在 transformers 和 CTranslate2 中，被长度上限截断的假设与已完成的假设一同竞争；pellucid 默认只在没有任何假设完成时
  才取截断的假设。各系统都按自己的定义评判。
- **得分**：CTranslate2 默认（`min_decoding_length=1`）在计算第一个词元的概率之前先去掉 `</s>`，因此那一步的得分来自另一个分布；
  “严格”一列没有这样做。n-best 一行中，列表有序、互异、且每个得分的相对误差都不超过 1e-4，才算正确。

{date}，{machine}，Python {python}，{versions}，{threads} 个线程：

```
{command}
```
""",  # noqa: E501
}


def ask(
    columns: dict[str, tuple[Any, Any]], strict: dict[str, Any], real: Marian, tiny: Marian, sources: list[str]
) -> dict[str, dict[str, Cell]]:
    """Every question to every system: column → row → cell."""
    answers: dict[str, dict[str, Cell]] = {}
    tiny_sources = [" ".join(random.Random(n).choices(["a", "the", "in"], k=1 + n % 5)) for n in range(8)]
    for name, (way, small) in columns.items():
        questions = Questions(way, real, sources)
        answers[name] = {}
        for row in ROWS:
            if row == "exhaustive":
                cell = exhaustive_questions(small, tiny, tiny_sources)
            elif row == "stopping":
                if strict[name] == "none":
                    continue
                cell = questions.stopping(strict[name])
            else:
                cell = getattr(questions, row)()
            answers[name][row] = cell
            print(f"{name:<24}{ROWS[row][0]:<52}{cell.text()}", flush=True)
            for example in cell.examples[:2]:
                print(f"    {example[:600]}", flush=True)
    return answers


def table(answers: dict[str, dict[str, Cell]], language: str) -> str:
    """The answers as Markdown."""
    place = ("en", "zh").index(language)
    names = [name if place == 0 else name.replace(", strict", "（严格）") for name in answers]
    lines = [f"| {('question', '问题')[place]} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, titles in ROWS.items():
        cells = [cells[row].text(language) if row in cells else "—" for cells in answers.values()]
        lines.append(f"| {titles[place]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Ask, print, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sources")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = [line for line in read_lines(options.sources) if line.strip()]
    sources = [lines[index * len(lines) // options.sentences] for index in range(options.sentences)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        small = make_tiny(options.model, work / "tiny")
        real, tiny = Marian(options.model), Marian(small)
        never = {"early_stopping": "never"}
        patient = {"patience": options.patience, "min_decoding_length": 0}

        def ctranslate2(name: str, **settings: Any) -> tuple[CTranslate2, CTranslate2]:
            ways = (
                CTranslate2(place, work, judge, options.threads, name, **settings)
                for place, judge in ((options.model, real), (small, tiny))
            )
            return next(ways), next(ways)

        columns: dict[str, tuple[Any, Any]] = {
            "pellucid": (Pellucid(options.model, real), Pellucid(small, tiny)),
            "transformers": (real, tiny),
            "transformers, strict": (Marian(options.model, **never), Marian(small, **never)),
            "CTranslate2": ctranslate2("CTranslate2"),
            "CTranslate2, strict": ctranslate2("CTranslate2", **patient),
        }
        strict = {"pellucid": None, "transformers, strict": "none", "CTranslate2, strict": "none"}
        for name in ("transformers", "CTranslate2"):
            strict[name] = columns[f"{name}, strict"][0]
        answers = ask(columns, strict, real, tiny, sources)
    for language, page in PAGES.items():
        print("\n" + table(answers, language))
        if options.output is not None:
            suffix = {"en": ".md", "zh": ".zh.md"}[language]
            text = page.format(
                table=table(answers, language), sentences=len(sources), beam=BEAM, limit=LIMIT, tiny=TINY_LIMIT,
                patience=options.patience, parameters=sum(p.numel() for p in real.model.parameters()) / 1e6,
                date=datetime.date.today(), machine=machine(), python=platform.python_version(),
                versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ctranslate2")),
                threads=options.threads,
                command=f"python benchmarks/contract.py MODEL test_2016_flickr.en --sentences {len(sources)}",
            )  # fmt: skip
            (options.output / f"contract{suffix}").write_text(text, encoding="utf-8")


def machine() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
