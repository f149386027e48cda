"""The report of exposure bias against brute force: every edit distance, every prefix scored by itself."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rapidfuzz.distance import Levenshtein

from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.tokenizer_kinds import EOS, SymbolTokenizer
from pellucid.errors import ConfigError, DataError, LengthError, PellucidError
from pellucid.exposure import Exposure, measure_exposure, optimal_tokens
from pellucid.model.transformer import EncoderDecoder
from pellucid.translator import Translator
from toys import SYMBOLS, Run


@pytest.fixture(scope="module")
def translator() -> Translator:
    """An untrained model with sharp opinions, different for each source, that ends its outputs."""
    tokenizer = SymbolTokenizer([*SYMBOLS])
    sizes = dict(hidden_size=16, num_heads=2, ff_size=24, encoder_layers=1, decoder_layers=1)
    torch.manual_seed(11)
    config = ModelConfig(**sizes, output_bias=True, tied_embeddings="none")
    model = EncoderDecoder(config, tokenizer.vocab_size, tokenizer.vocab_size).eval()
    assert model.output.bias is not None
    with torch.no_grad():
        model.output.weight.mul_(2.0)
        model.output.bias.zero_()
        model.output.bias[:EOS] = -50.0  # what no search writes
        model.output.bias[EOS] = 1.5
    return Translator(model, tokenizer, tokenizer, DecodingConfig(beam_size=3, max_length=12))


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(SYMBOLS, k=rng.randint(1, 10))) for _ in range(40)]
    return texts[:20], texts[20:]


def test_optimal_tokens_by_hand() -> None:
    # gold a b c; said x: deleting x (then a) and taking x for a (then b) are the same one edit.
    assert optimal_tokens([9], [5, 6, 7], EOS) == [[5], [5, 6]]
    assert optimal_tokens([5, 6, 7], [5, 6, 7], EOS) == [[5], [6], [7], [EOS]]
    assert optimal_tokens([6], [5, 6, 7], EOS) == [[5], [5, 6, 7]]
    assert optimal_tokens([5, 7], [5, 6, 7], EOS) == [[5], [6], [EOS, 6, 7]], "leaving out b is one edit, too"
    assert optimal_tokens([], [], EOS) == [[EOS]]
    assert optimal_tokens([5, 6], [], EOS) == [[EOS], [EOS], [EOS]]
    assert optimal_tokens([5, 5], [5, 5, 5, 6], EOS)[2] == [5], "one token, however many places it stands at"


@pytest.mark.parametrize("seed", range(20))
def test_optimal_tokens_are_those_behind_the_nearest_prefixes(seed: int) -> None:
    rng = random.Random(seed)
    said, gold = ([rng.randint(4, 7) for _ in range(rng.randint(0, 9))] for _ in range(2))
    found = optimal_tokens(said, gold, EOS)
    for length in range(len(said) + 1):
        distances = [Levenshtein.distance(said[:length], gold[:t]) for t in range(len(gold) + 1)]
        behind = [*gold, EOS]
        assert found[length] == sorted({behind[t] for t, d in enumerate(distances) if d == min(distances)})


def brute_force(translator: Translator, source: str, reference: str, own: list[int]) -> list[tuple[float, ...]]:
    """A row for each position: both losses and hits, and whether the prefixes are the same."""
    tokenizer = translator.target_tokenizer
    gold = [*tokenizer.encode(reference), EOS]

    def logprobs(prefix: list[int]) -> torch.Tensor:
        batch = translator.batch([translator.source_tokenizer.encode(source)], [prefix])
        with torch.no_grad():
            return translator.model(batch.source, batch.source_mask, batch.target_in)[0, -1].double().log_softmax(-1)

    rows = []
    for place in range(min(len(gold), len(own))):
        distances = [Levenshtein.distance(own[:place], gold[:t]) for t in range(len(gold))]
        right = {gold[t] for t, distance in enumerate(distances) if distance == min(distances)}
        gold_said, own_said = logprobs(gold[:place]), logprobs(own[:place])
        losses = -gold_said[gold[place]].item(), -math.log(sum(own_said[token].exp().item() for token in right))
        hits = gold_said.argmax().item() == gold[place], own_said.argmax().item() in right
        rows.append((*losses, *hits, own[:place] == gold[:place]))
    return rows


@pytest.mark.parametrize("batch_size", [3, 64])
@pytest.mark.parametrize("settings", [{}, {"sampling": True, "seed": 5}, {"beam_size": 4, "max_length": 5}])
def test_the_report_is_what_brute_force_finds(
    settings: dict[str, Any], batch_size: int, translator: Translator, pairs: tuple[list[str], list[str]]
) -> None:
    report = measure_exposure(translator, *pairs, batch_size=batch_size, **settings)
    own = [
        generation.hypotheses[0].token_ids
        for generation in translator.generate(pairs[0], **{"beam_size": 1, "n_best": 1, **settings})
    ]
    by_pair = [brute_force(translator, *triple) for triple in zip(*pairs, own, strict=True)]
    rows = [(place, *row) for found in by_pair for place, row in enumerate(found, 1)]
    assert len({len(ids) for ids in own}) > 2, "outputs of different lengths, or nothing is tried here"
    names = ("gold_loss", "own_loss", "gold_accuracy", "own_accuracy", "same_prefix")
    for part in (*report.rows, report.whole):
        inside = [row[1:] for row in rows if part.first <= row[0] <= (part.last or 999)]
        assert part.positions == len(inside)
        means = [sum(column) / len(inside) for column in zip(*inside, strict=True)]
        assert [getattr(part, name) for name in names] == pytest.approx(means, rel=1e-4, abs=1e-4)
        assert part.gap == pytest.approx(part.own_loss - part.gold_loss)
    assert [(part.first, part.last) for part in report.rows][:3] == [(1, 1), (2, 4), (5, 8)]
    assert sum(part.positions for part in report.rows) == report.whole.positions == len(rows)
    assert (report.pairs, report.blank) == (20, 0)
    golds = sum(len(text.split()) + 1 for text in pairs[1])
    assert (report.gold_only, report.own_only) == (golds - len(rows), sum(map(len, own)) - len(rows))
    assert 0.0 < report.whole.same_prefix < 1.0
    assert report.rows[0].gap == pytest.approx(0.0, abs=1e-6), "before the first word there is one prefix only"


def test_no_gap_where_the_references_are_the_models_own_words(
    translator: Translator, pairs: tuple[list[str], list[str]]
) -> None:
    ended = [g for g in translator.generate(pairs[0], beam_size=1) if g.hypotheses[0].finish_reason == "eos"]
    assert len({g.text for g in ended}) > 3
    report = measure_exposure(translator, [g.source for g in ended], [g.text for g in ended])
    assert report.whole.gap == pytest.approx(0.0, abs=1e-6)
    assert (report.whole.same_prefix, report.whole.gold_accuracy, report.whole.own_accuracy) == (1.0, 1.0, 1.0)
    assert (report.gold_only, report.own_only) == (0, 0)


def test_the_loss_behind_gold_is_that_of_scoring(translator: Translator, pairs: tuple[list[str], list[str]]) -> None:
    """With outputs as long as any reference, all positions of the references are compared."""
    report = measure_exposure(translator, *pairs, min_length=11)
    scored = [p for score in translator.score(*pairs) for p in score.token_logprobs]
    assert report.gold_only == 0
    assert report.whole.gold_loss == pytest.approx(-sum(scored) / len(scored), rel=1e-5)


def test_blank_sources_are_left_out(translator: Translator, pairs: tuple[list[str], list[str]]) -> None:
    sources, references = pairs
    with_blanks = measure_exposure(translator, ["", *sources[:5], " "], ["ba", *references[:5], ""])
    plain = measure_exposure(translator, sources[:5], references[:5])
    assert with_blanks.blank == 2
    assert with_blanks == Exposure(5, 2, plain.whole, plain.rows, plain.gold_only, plain.own_only)


def test_what_cannot_be_compared_is_named(translator: Translator) -> None:
    with pytest.raises(DataError, match="2 sources and 1 references"):
        measure_exposure(translator, ["ba", "da"], ["ba"])
    with pytest.raises(DataError, match="no source text that is not blank"):
        measure_exposure(translator, [" "], ["ba"])
    with pytest.raises(ConfigError, match="beam_size"):
        measure_exposure(translator, ["ba"], ["ba"], beam_size=0)
    with pytest.raises(LengthError, match="target 3: a sequence of 6 tokens"):
        measure_exposure(translator, ["ba", "", "ba"], ["ba", "", "ba " * 5], max_source_length=4)
    broken = EncoderDecoder(translator.model.config, 14, 14).eval()
    broken.output.weight.data.fill_(math.nan)
    tokenizer = translator.target_tokenizer
    with pytest.raises(PellucidError, match=r"NaN|not finite"):
        measure_exposure(Translator(broken, tokenizer, tokenizer, DecodingConfig()), ["ba"], ["ba"])


def test_the_command(tiny_run: Path, toy_corpus: Path, run: Run, tmp_path: Path) -> None:
    files = toy_corpus / "dev.src", toy_corpus / "dev.tgt"
    found = json.loads(run("exposure", "-m", tiny_run, *files, "--json").out)
    result = run("exposure", "-m", tiny_run, *files)
    assert result.status == 0
    lines = result.out.splitlines()
    whole = found["whole"]
    assert lines[-3].split()[:5] == [
        "all",
        f"{whole['positions']:,}",
        *(f"{whole[name]:.3f}" for name in ("gold_loss", "own_loss")),
        f"{whole['gap']:+.3f}",
    ]
    assert [line.split()[0] for line in lines[1:-3]] == ["1", "2-4", "5-8"]
    assert "20 pairs; losses in nats a token" in lines
    (tmp_path / "long").write_text("ba\n" * 2 + "ba " * 5000 + "\n")
    (tmp_path / "short").write_text("BA\n" * 3)
    result = run("exposure", "-m", tiny_run, tmp_path / "long", tmp_path / "short")
    assert (result.status, result.out) == (2, "")
    assert "source line 3: a sequence of 5001 tokens is longer than max_source_length" in result.err
