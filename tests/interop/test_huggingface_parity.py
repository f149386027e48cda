"""Checkpoints of every family compute what transformers computes: tokens, logits, greedy and beam output, text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_twins import TEXTS, TWINS, hf_tokenizer, make_twin, source_ids, transformers
from safetensors.torch import load_file

import pellucid
from pellucid.cli import main
from pellucid.interop.huggingface.architecture import family_of, rows_of
from pellucid.interop.huggingface.table import export_weights
from pellucid.translator import Translator


@dataclass
class Pair:
    """A twin, loaded by both."""

    name: str
    folder: Path
    theirs: Any
    tokenizer: Any
    ours: Translator

    def generate(self, texts: list[str], **settings: Any) -> list[list[int]]:
        """What transformers writes, without the first token, up to </s>."""
        rows = [torch.tensor(source_ids(self.name, self.tokenizer, text)) for text in texts]
        pad = self.ours.source_tokenizer.pad_id
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        target = TWINS[self.name].languages
        if target and self.name == "mbart":
            settings["decoder_start_token_id"] = self.tokenizer.convert_tokens_to_ids(target[1])
        elif target:
            code = f"__{target[1]}__" if self.name == "m2m100" else target[1]
            settings["forced_bos_token_id"] = self.tokenizer.convert_tokens_to_ids(code)
        out = self.theirs.generate(ids, attention_mask=mask, **settings)[:, 1:].tolist()
        eos = self.ours.target_tokenizer.eos_id
        return [row[: row.index(eos) + 1] if eos in row else row for row in out]


@pytest.fixture(scope="module", params=TWINS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    theirs = make_twin(name, folder)
    source, target = TWINS[name].languages or (None, None)
    ours = pellucid.load(folder, "cpu", source_language=source, target_language=target)
    return Pair(name, folder, theirs, hf_tokenizer(name, folder), ours)


def test_texts_become_the_same_tokens(pair: Pair) -> None:
    for text in [*TEXTS, "she is über", "two  spaces"]:
        batch = pair.ours.batch([pair.ours._encode_source(text, 1)], [[]])
        assert batch.source[0].tolist() == source_ids(pair.name, pair.tokenizer, text), text


def test_tokens_become_the_same_text(pair: Pair) -> None:
    ids = [pair.ours.target_tokenizer.encode(text) for text in TEXTS]
    vocabulary = range(pair.ours.target_tokenizer.vocab_size)
    for row in [*ids, list(vocabulary)[:: max(1, len(vocabulary) // 40)]]:
        known = [token for token in row if token < len(pair.tokenizer)]
        expected = pair.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert pair.ours.target_tokenizer.decode(known) == expected.strip()


@torch.inference_mode()
def test_logits_are_the_same(pair: Pair) -> None:
    encoded = [pair.ours._encode_source(text, 1) for text in TEXTS]
    targets = [ids[:7] for ids in encoded]
    batch = pair.ours.batch(encoded, targets)
    expected = pair.theirs(
        input_ids=batch.source, attention_mask=batch.source_mask.long(), decoder_input_ids=batch.target_in
    ).logits[batch.target_mask]
    found = pair.ours.model(batch.source, batch.source_mask, batch.target_in)[batch.target_mask]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    cache = pair.ours.model.start_cache(pair.ours.model.encode(batch.source, batch.source_mask), batch.source_mask)
    steps = [pair.ours.model.step(batch.target_in[:, t], cache) for t in range(batch.target_in.shape[1])]
    serial = torch.stack(steps, 1)[batch.target_mask]
    assert (serial - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_greedy_output_is_the_same(pair: Pair) -> None:
    assert pair.ours.decoding.beam_size == 1  # as the checkpoint, which says nothing else
    found = [generation.hypotheses[0] for generation in pair.ours.generate(TEXTS)]
    expected = pair.generate(TEXTS)
    assert [hypothesis.token_ids for hypothesis in found] == expected
    for hypothesis, ids in zip(found, expected, strict=True):
        text = pair.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert hypothesis.text == text.strip()


# early_stopping, length_penalty, and our rule for the former
RULES = [
    (False, 1.0, "heuristic"),
    (True, 2.0, "first_k"),
    ("never", 0.5, "exact"),
    (False, -0.5, "heuristic"),
    (True, 0.0, "first_k"),
]


@pytest.mark.parametrize(("early", "alpha", "stop"), RULES)
def test_beam_output_is_the_same(pair: Pair, early: bool | str, alpha: float, stop: str) -> None:
    settings = dict(beam_size=4, stop=stop, beam="full", length_penalty="power", length_alpha=alpha, n_best=4)
    found = [g.hypotheses[0].token_ids for g in pair.ours.generate(TEXTS, **settings)]
    assert found == pair.generate(TEXTS, num_beams=4, early_stopping=early, length_penalty=alpha)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"renormalize": True, "forbidden": 3}, {"renormalize_logits": True, "forbidden": 3}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
        ({"min_length": 9, "max_length": 20}, {"min_new_tokens": 9, "max_new_tokens": 20}),
    ],
    ids=["renormalize", "no_repeat_ngram", "repetition_penalty", "min_length"],
)
def test_constrained_output_is_the_same(pair: Pair, settings: dict[str, Any], theirs: dict[str, Any]) -> None:
    ours, other = dict(settings), dict(theirs)
    if count := ours.pop("forbidden", 0):  # what greedy search writes most
        ids = [token for g in pair.ours.generate(TEXTS) for token in g.hypotheses[0].token_ids[1:-1]]
        ids = [token for token in ids if token not in pair.ours.target_tokenizer.prefix_ids]  # which is forced
        common = [token for token, _ in Counter(ids).most_common(count)] or [20, 21, 22]
        ours["forbidden_tokens"] = pair.ours.target_tokenizer.pieces(common)
        other["bad_words_ids"] = [[token] for token in common]
        del other["forbidden"]
        if given := pair.ours.decoding.forbidden_tokens:
            ours["forbidden_tokens"] = [*given, *ours["forbidden_tokens"]]
            other["bad_words_ids"] += pair.theirs.generation_config.bad_words_ids or []
    rule: dict[str, Any] = {"beam_size": 4, "stop": "heuristic", "beam": "full"}
    found = [g.hypotheses[0].token_ids for g in pair.ours.generate(TEXTS, **rule, **ours)]
    assert found == pair.generate(TEXTS, num_beams=4, **other)


def test_the_table_leads_back(pair: Pair) -> None:
    model = pair.ours.model
    family = family_of(pair.folder, pair.ours.document["huggingface"])
    written = export_weights(model, rows_of(family, model.config))
    original = load_file(pair.folder / "model.safetensors")
    original = {
        name: tensor for name, tensor in original.items() if "embed_positions.weight" not in name or name in written
    }
    for name, tensor in original.items():
        assert tensor.shape == written[name].shape
        rows = slice(2, None) if "embed_positions" in name else slice(None)
        assert torch.equal(tensor[rows], written[name][rows])
    assert set(written) == set(original)


def test_what_convert_writes_does_the_same(pair: Pair, tmp_path: Path) -> None:
    source, target = TWINS[pair.name].languages or (None, None)
    languages = ["--source-language", source, "--target-language", target] if source and target else []
    assert main(["convert", str(pair.folder), str(tmp_path / "out"), *languages]) == 0
    converted = pellucid.load(tmp_path / "out", "cpu")
    assert converted.decoding == pair.ours.decoding
    assert converted.generate(TEXTS) == pair.ours.generate(TEXTS)
    assert converted.score(TEXTS, TEXTS[::-1]) == pair.ours.score(TEXTS, TEXTS[::-1])


def test_transformers_is_the_one_that_was_asked(pair: Pair) -> None:
    assert isinstance(pair.theirs, getattr(transformers(), TWINS[pair.name].model))
