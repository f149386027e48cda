"""GPT-2, Llama and BERT: a decoder alone and an encoder alone compute what transformers computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_twins import CORPUS, TEXTS, transformers
from safetensors.torch import load_file, save_file

import pellucid
from pellucid.cli import main
from pellucid.decoding.model_step import CachedStep
from pellucid.decoding.prompt_step import PromptStep
from pellucid.decoding.step import StepFunction
from pellucid.errors import ConfigError, LengthError, ModelFolderError
from pellucid.language_model import LanguageModel

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": dict(n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.3),
    "llama": dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64, rope_theta=500000.0, initializer_range=0.3, tie_word_embeddings=False,
    ),
}  # fmt: skip
CLASSES = {"gpt2": ("GPT2LMHeadModel", "GPT2Config"), "llama": ("LlamaForCausalLM", "LlamaConfig")}
PROMPTS = [*TEXTS[:3], "she plays", "the dog"]


def write_tokenizer(name: str, folder: Path) -> tuple[int, dict[str, int]]:
    from tokenizers import ByteLevelBPETokenizer, processors

    tokenizer = ByteLevelBPETokenizer()
    marks = ["<|endoftext|>"] if name == "gpt2" else ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(CORPUS, vocab_size=300, special_tokens=marks)
    if name == "llama":
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": 0, "eos_token_id": 0} if name == "gpt2" else {"bos_token_id": 1, "eos_token_id": 2}
    return int(tokenizer.get_vocab_size()), ids


def make_decoder(name: str, folder: Path, **settings: Any) -> Any:
    library = transformers()
    size, ids = write_tokenizer(name, folder)
    torch.manual_seed(5)
    kind, config = (getattr(library, part) for part in CLASSES[name])
    model = kind(config(vocab_size=size, **{**SIZES[name], **ids, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@dataclass
class Pair:
    """A twin, loaded by both."""

    name: str
    folder: Path
    theirs: Any
    ours: LanguageModel

    def generate(self, prompt: str, **settings: Any) -> list[int]:
        ids = torch.tensor([self.ours._encode_source(prompt, 1)])
        pad = self.ours.target_tokenizer.pad_id
        out = self.theirs.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=pad, **settings)
        row = out[0, ids.shape[1] :].tolist()
        eos = self.ours.target_tokenizer.eos_id
        return row[: row.index(eos) + 1] if eos in row else row


@pytest.fixture(scope="module", params=SIZES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = make_decoder(request.param, folder)
    ours = pellucid.load(folder, "cpu")
    assert isinstance(ours, LanguageModel)
    return Pair(request.param, folder, theirs, ours)


def test_prompts_become_the_same_tokens(pair: Pair) -> None:
    tokenizer = transformers().PreTrainedTokenizerFast(tokenizer_file=str(pair.folder / "tokenizer.json"))
    for text in PROMPTS:
        assert pair.ours._encode_source(text, 1) == list(tokenizer(text).input_ids)


@torch.inference_mode()
def test_logits_are_the_same(pair: Pair) -> None:
    for text in PROMPTS:
        ids = torch.tensor([pair.ours._encode_source(text, 1)])
        expected = pair.theirs(input_ids=ids).logits
        limit = 1e-5 * expected.abs().max()
        assert (pair.ours.model(ids) - expected).abs().max() <= limit
        cache = pair.ours.model.start_cache(1)  # two tokens at once, then one by one
        parts = [
            pair.ours.model(ids[:, :2], cache),
            *(pair.ours.model(ids[:, [t]], cache) for t in range(2, ids.shape[1])),
        ]
        assert (torch.cat(parts, 1) - expected).abs().max() <= limit
        assert cache.length == ids.shape[1]
        assert cache.used_bytes().cross_attention == 0


def test_greedy_output_is_the_same(pair: Pair) -> None:
    found = pair.ours.generate(PROMPTS, max_length=12)
    assert pair.ours.decoding.beam_size == 1
    assert [g.hypotheses[0].token_ids for g in found] == [pair.generate(p, max_new_tokens=12) for p in PROMPTS]


@pytest.mark.parametrize(("early", "alpha", "stop"), [(False, 1.0, "heuristic"), (True, 2.0, "first_k")])
def test_beam_output_is_the_same(pair: Pair, early: bool, alpha: float, stop: str) -> None:
    settings: dict[str, Any] = dict(beam_size=4, stop=stop, beam="full", length_penalty="power", length_alpha=alpha)
    found = pair.ours.generate(PROMPTS, **settings, max_length=12, batch_size=3)
    assert [g.hypotheses[0].token_ids for g in found] == [
        pair.generate(p, num_beams=4, early_stopping=early, length_penalty=alpha, max_new_tokens=12) for p in PROMPTS
    ]


def test_the_prompt_is_continued_and_scores_are_reproduced(pair: Pair) -> None:
    for generation in pair.ours.generate(PROMPTS, max_length=6):
        best = generation.hypotheses[0]
        prompt = pair.ours._encode_source(generation.source, 1)
        whole = pair.ours.target_tokenizer.decode([*prompt, *best.token_ids])
        assert generation.source + best.text == whole
        ids = best.token_ids if best.finish_reason == "length" else best.token_ids[:-1]
        forced = pair.ours._forced([(prompt, ids)])[0]
        assert forced[: len(best.token_ids)] == pytest.approx(best.token_logprobs, abs=1e-4)
    assert "".join(pair.ours.stream(PROMPTS[0], max_length=6)) == pair.ours.generate(PROMPTS[:1], max_length=6)[0].text


def test_the_step_keeps_the_protocol(pair: Pair) -> None:
    assert isinstance(PromptStep(pair.ours.model, [[3, 4]]), StepFunction)
    assert issubclass(CachedStep, StepFunction)


def test_what_convert_writes_does_the_same(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(pair.folder), str(tmp_path / "out")]) == 0
    converted = pellucid.load(tmp_path / "out", "cpu")
    assert converted.generate(PROMPTS, max_length=8) == pair.ours.generate(PROMPTS, max_length=8)
    capsys.readouterr()
    for folder in (pair.folder, tmp_path / "out"):
        assert main(["info", str(folder)]) == 0
        shown = capsys.readouterr().out
        assert f"checkpoint       Hugging Face, {pair.name}" in shown
        assert "a decoder alone: 3 layers" in shown


def test_what_asks_for_an_encoder_is_refused(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="a decoder alone"):
        pair.ours.inspect(PROMPTS[0])
    with pytest.raises(ConfigError, match="a decoder alone"):
        pair.ours.trace(PROMPTS[0])
    for command in (["check"], ["generate", "she", "--alignments", "--model"], ["align", "a", "b", "--model"]):
        assert main([*command, str(pair.folder)]) == 2
        assert "a decoder alone" in capsys.readouterr().err


# -- bad input


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        pellucid.load(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_variants_and_tensors_that_do_not_fit(tmp_path: Path) -> None:
    make_decoder("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    scaled = {**config, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    (tmp_path / "config.json").write_text(json.dumps(scaled))
    assert "rope_scaling of type 'llama3' is not supported" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    assert "a variant that is not supported: attention_bias = True" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.9.mlp.up_proj.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    message = refusal(tmp_path)
    assert "model.layers.0.mlp.up_proj.weight is missing" in message
    assert "model.layers.9.mlp.up_proj.weight is not part of this architecture" in message


def test_a_prompt_longer_than_the_table_and_one_that_just_fits(tmp_path: Path) -> None:
    theirs = make_decoder("gpt2", tmp_path, n_positions=12)
    ours = pellucid.load(tmp_path, "cpu")
    with pytest.raises(LengthError, match="source 2: a sequence of"):
        ours.generate(["she", " ".join(TEXTS)])
    found = ours.generate(["she"], max_length=40)[0].hypotheses[0]
    pair = Pair("gpt2", tmp_path, theirs, ours)
    room = 12 - len(ours._encode_source("she", 1)) + 1
    assert found.token_ids == pair.generate("she", max_new_tokens=room)
