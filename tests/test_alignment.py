"""Alignments: exact on weights made by hand, the same in batches as one by one, and heads found where they are."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid
from pellucid import alignment, alignment_heads
from pellucid.alignment import (
    AlignmentHeads,
    align,
    align_generations,
    cross_attention,
    default_heads,
    group_weights,
    load_heads,
    save_heads,
)
from pellucid.alignment_heads import choose_heads, clear_links, hiding_costs
from pellucid.config import DecodingConfig, ModelConfig, TokenizerConfig
from pellucid.data.batches import collate
from pellucid.data.text import TextRules, markers
from pellucid.data.tokenizer import train_tokenizer
from pellucid.data.tokenizer_kinds import SymbolTokenizer
from pellucid.data.units import Segments, segment_text
from pellucid.errors import ConfigError, DataError, LengthError, ModelFolderError
from pellucid.model.transformer import EncoderDecoder
from pellucid.translator import GeneratedText, Generation, Translator
from toys import SYMBOLS


@pytest.fixture(scope="module")
def translator(tiny_run: Path) -> Translator:
    return pellucid.load(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def untrained() -> Translator:
    """Random weights, three decoder layers of four heads, learned positions."""
    config = ModelConfig(
        hidden_size=16, encoder_layers=1, decoder_layers=3, num_heads=4, ff_size=16, positions="learned",
        max_positions=12, tied_embeddings="two",
    )  # fmt: skip
    tokenizers = SymbolTokenizer(SYMBOLS), SymbolTokenizer([symbol.upper() for symbol in SYMBOLS])
    model = EncoderDecoder(config, *(tokenizer.vocab_size for tokenizer in tokenizers)).eval()
    return Translator(model, *tokenizers, DecodingConfig())


def texts(count: int, longest: int = 6, seed: int = 3) -> tuple[list[str], list[str]]:
    """Sources, and targets that copy them."""
    rng = random.Random(seed)
    sources = [" ".join(rng.choices(SYMBOLS, k=rng.randint(1, longest))) for _ in range(count)]
    return sources, [source.upper() for source in sources]


# -- weights


def segments(covers: Sequence[tuple[int, ...]]) -> Segments:
    units = 1 + max(itertools.chain(*covers), default=-1)
    return Segments([4] * len(covers), [f"u{number}" for number in range(units)], list(covers))


ATTENTION = np.array(
    [
        # source tokens: a1 a2 b c </s>
        [0.1, 0.2, 0.3, 0.0, 0.4],
        [0.5, 0.1, 0.1, 0.1, 0.2],
        [0.0, 0.1, 0.1, 0.2, 0.6],
        [0.2, 0.2, 0.2, 0.4, 0.0],
    ],
    dtype=np.float32,
)
SOURCE = segments([(0,), (0,), (1,), (2,)])
TARGET = segments([(0,), (0,), (1,)])  # two words, the first of two tokens; then </s>


def test_a_word_gets_the_sum_of_its_tokens_and_gives_the_mean() -> None:
    written, rest = group_weights(ATTENTION, SOURCE, TARGET, "write")
    np.testing.assert_allclose(written, [[0.45, 0.2, 0.05], [0.1, 0.1, 0.2]], atol=1e-6)
    np.testing.assert_allclose(rest, [0.3, 0.6], atol=1e-6)
    read, rest = group_weights(ATTENTION, SOURCE, TARGET, "read")
    np.testing.assert_allclose(read, [[0.35, 0.1, 0.15], [0.4, 0.2, 0.4]], atol=1e-6)
    np.testing.assert_allclose(rest, [0.4, 0.0], atol=1e-6)


def test_heads_are_pooled_at_once() -> None:
    many = np.stack([ATTENTION, ATTENTION[::-1]])[None]
    weights, rest = group_weights(many, SOURCE, TARGET, "read")
    assert (weights.shape, rest.shape) == ((1, 2, 2, 3), (1, 2, 2))
    np.testing.assert_array_equal(weights[0, 0], group_weights(ATTENTION, SOURCE, TARGET, "read")[0])


def test_units_of_one_token_are_one_group_and_tokens_of_no_unit_count_as_nothing() -> None:
    source = segments([(0, 1), (), (2,), (3,)])
    weights, rest = group_weights(ATTENTION, source, segments([(0,), (), (2,)]), "write")
    np.testing.assert_allclose(weights, [[0.1, 0.3, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.2]], atol=1e-6)
    np.testing.assert_allclose(rest, [0.6, 0.0, 0.7], atol=1e-6)


def linked(source: Segments, target: Segments, threshold: float | None = None) -> alignment.Alignment:
    return alignment._linked(*group_weights(ATTENTION, source, target, "write"), source, target, threshold)


def test_links_are_the_greatest_weight_or_those_above_a_threshold() -> None:
    hard = linked(SOURCE, TARGET)
    assert hard.links == [(0, 0)]  # the second word looks mostly at </s>
    assert hard.link_weights == pytest.approx([0.45])
    assert hard.pharaoh == "0-0"
    soft = linked(SOURCE, TARGET, 0.15)
    assert soft.links == [(0, 0), (1, 0), (2, 1)]
    assert soft.pharaoh == "0-0 1-0 2-1"
    assert soft.link_weights == pytest.approx([0.45, 0.2, 0.2])
    np.testing.assert_allclose(soft.weights, [[0.45, 0.2, 0.05], [0.1, 0.1, 0.2]], atol=1e-6)


def test_a_link_of_a_group_is_a_link_of_all_its_units() -> None:
    found = linked(segments([(0, 1), (2,), (3,), (4,)]), segments([(0,), (1, 2), (4,)]))
    assert found.links == [(3, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert found.weights.shape == (5, 5)
    # Nothing is known of a unit without a token (3); and the last looks mostly at </s>.
    assert not found.weights[3].any()


# -- attention in batches


def test_batched_attention_is_what_inspect_sees_one_by_one(untrained: Translator) -> None:
    sources, targets = texts(9)
    targets = [*targets[1:], "KA"]  # unlike lengths
    for batch_size in (1, 4, 64):
        found = cross_attention(untrained, sources, targets, batch_size=batch_size)
        for source, target, each in zip(sources, targets, found, strict=True):
            seen = untrained.inspect(source, target)
            assert (each.source_tokens, each.target_tokens) == (seen.source_tokens, seen.target_tokens)
            np.testing.assert_allclose(each.weights, seen.cross_attention, atol=1e-6)


def test_the_mean_of_heads_is_the_mean_of_their_weights(untrained: Translator) -> None:
    sources, targets = texts(5)
    heads = AlignmentHeads(((0, 1), (2, 3), (2, 0)), "read")
    found = align(untrained, sources, targets, heads, units="tokens", batch_size=2)
    for each, seen in zip(found, cross_attention(untrained, sources, targets), strict=True):
        mean = np.mean([seen.weights[head] for head in heads.heads], axis=0)
        np.testing.assert_allclose(each.weights, mean[1:, :-1], atol=1e-6)


def test_long_pairs_go_in_small_batches(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, targets = texts(12)
    whole = align(untrained, sources, targets)
    sizes = [(2, 3), (9, 1), (2, 2), (3, 3), (2, 9)]
    assert list(alignment._batches(sizes, 2, 1000)) == [[2, 0], [4, 3], [1]]
    assert list(alignment._batches(sizes, 9, 18)) == [[2, 0], [4], [3], [1]]
    monkeypatch.setattr(alignment, "_MOST_NUMBERS", 4 * 20)
    assert [each.links for each in align(untrained, sources, targets)] == [each.links for each in whole]


# -- links of a model


def test_a_copying_model_aligns_copies(translator: Translator) -> None:
    sources, targets = texts(60, longest=4)
    heads = choose_heads(translator, *texts(200, longest=4, seed=4))
    found = align(translator, sources, targets, heads)
    right = sum((number, number) in each.links for each in found for number in range(len(each.target_units)))
    assert right > 0.6 * sum(len(each.target_units) for each in found)
    assert [each.source_units for each in found] == [source.split() for source in sources]


def test_blank_sides_have_no_links(untrained: Translator) -> None:
    found = align(untrained, ["ba", "", " ", "ba da"], ["", "BA", "", "DA"])
    assert [each.links for each in found[:3]] == [[], [], []]
    assert [(len(each.source_units), len(each.target_units)) for each in found] == [(1, 0), (0, 1), (0, 0), (2, 1)]
    assert [each.weights.shape for each in found] == [(0, 1), (1, 0), (0, 0), (1, 2)]
    assert align(untrained, [], []) == []


def hypothesis(translator: Translator, ids: list[int]) -> GeneratedText:
    tokenizer = translator.target_tokenizer
    reason: Any = "eos" if ids[-1:] == [3] else "length"
    return GeneratedText(tokenizer.decode(ids), tokenizer.pieces(ids), ids, [-1.0] * len(ids), -1.0, reason)


def test_generations_are_aligned_by_their_own_tokens(untrained: Translator) -> None:
    ended, cut, nothing = ([4, 5, 3], [6, 5, 7], [3])
    generations = [
        Generation("ba da", [hypothesis(untrained, ids) for ids in (ended, cut, nothing)]),
        Generation(" ", []),
        Generation("ka", [hypothesis(untrained, ended)]),
    ]
    found = align_generations(untrained, generations)
    assert [len(each) for each in found] == [3, 0, 1]
    decode = untrained.target_tokenizer.decode
    expected = align(untrained, ["ba da"] * 3 + ["ka"], [decode(ids) for ids in (ended, cut, nothing, ended)])
    assert [each.links for each in itertools.chain(*found)] == [each.links for each in expected]
    assert found[0][2].links == []


def test_a_hypothesis_that_fills_the_position_table_is_aligned(untrained: Translator) -> None:
    full = Generation("ba da", [hypothesis(untrained, [4] * 12)])
    ((found,),) = align_generations(untrained, [full], AlignmentHeads(((2, 0),), "read"), threshold=0.01)
    assert {target for _, target in found.links} == set(range(11))
    with pytest.raises(LengthError, match=r"^target 2: .*12"):
        align(untrained, ["ba", "ba"], ["BA", "BA " * 12])
    with pytest.raises(LengthError, match=r"^source 1: .*12"):
        align(untrained, ["ba " * 12], ["BA"])


def test_placeholders_are_counted_as_what_they_stand_for() -> None:
    lines = ["we have 12 dogs and 7 cats at www.a.de", "the dogs and the cats", "cats have dogs", "have the 5 dogs"]
    config = TokenizerConfig(vocab_size=300, placeholders=["url", "number"])
    rules = TextRules.of(config)
    tokenizer = train_tokenizer(config, "sentencepiece", [rules.read_source(line) for line in lines])
    model = EncoderDecoder(ModelConfig(hidden_size=16, num_heads=2, ff_size=16), *[tokenizer.vocab_size] * 2).eval()
    translator = Translator(model, tokenizer, tokenizer, DecodingConfig(), rules=rules)
    source, target = "12 dogs, www.a.de", "dogs 12 and 7 www.a.de"
    (found,) = align(translator, [source], [target])
    assert (found.source_units, found.target_units) == (source.split(), target.split())
    first, second = markers(["number"])[:2]  # the second stands for nothing here, and is left out
    ids = tokenizer.encode(f"have {second} {first} dogs")
    text = rules.write(tokenizer.decode(ids), source).text
    ((found,),) = align_generations(translator, [Generation(source, [hypothesis(translator, [*ids, 3])])])
    assert found.target_units == text.split() == ["have", "12", "dogs"]
    assert {link[1] for link in found.links} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": "letters"}, ConfigError, "unknown kind of alignment units 'letters': choose from words, tokens"),
        ({"threshold": 0.0}, ConfigError, r"the alignment threshold \(0.0\) must be above 0 and at most 1"),
        ({"threshold": 1.5}, ConfigError, "at most 1"),
        ({"heads": AlignmentHeads((), "write")}, ConfigError, "no head is named"),
        ({"heads": AlignmentHeads(((3, 0),), "write")}, ConfigError, "no head 0 in layer 3: the decoder has 3 layers"),
        ({"heads": AlignmentHeads(((0, -1),), "write")}, ConfigError, "no head -1 in layer 0"),
        ({"targets": ["BA"]}, DataError, "2 sources and 1 targets"),
        ({"targets": "BA"}, ConfigError, "lists of texts"),
    ],
)
def test_what_cannot_be_asked(
    arguments: dict[str, Any], error: type[Exception], message: str, untrained: Translator
) -> None:
    with pytest.raises(error, match=message):
        align(untrained, **{"sources": ["ba", "da"], "targets": ["BA", "DA"], **arguments})


# -- the choice, kept


def test_without_a_choice_it_is_the_penultimate_layer(untrained: Translator, translator: Translator) -> None:
    assert load_heads(untrained) == default_heads(untrained)
    assert default_heads(untrained) == AlignmentHeads(((1, 0), (1, 1), (1, 2), (1, 3)), "write")
    assert default_heads(translator).heads == ((0, 0), (0, 1))  # there is one layer


def test_a_choice_is_kept_with_the_model(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_run / "best", folder)
    translator = pellucid.load(folder, device="cpu")
    assert load_heads(translator) == default_heads(translator)
    chosen = AlignmentHeads(((0, 1),), "read", {"agreement": 87.5, "method": "m"})
    save_heads(folder, chosen)
    assert load_heads(translator) == chosen
    found = align(translator, ["ba da"], ["BA DA"])[0]
    np.testing.assert_array_equal(found.weights, align(translator, ["ba da"], ["BA DA"], chosen)[0].weights)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "heads": [[0, 0]], "reading": "read"}',
        '{"format": 1, "heads": [[0, 0]]}',
        '{"format": 1, "heads": [[0, 0]], "reading": "sideways"}',
        '{"format": 1, "heads": [0], "reading": "read"}',
        '{"format": 1, "heads": [[0, 2]], "reading": "read"}',
        '{"format": 1, "heads": [], "reading": "read"}',
    ],
)
def test_a_damaged_choice_is_named(content: str, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    (tmp_path / "model" / "alignment.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"alignment\.json: .*choose again: pellucid align --choose-heads"):
        load_heads(pellucid.load(tmp_path / "model", device="cpu"))


# -- choosing


def plant(monkeypatch: pytest.MonkeyPatch, pattern: Callable[[int, int, tuple[int, int]], np.ndarray]) -> None:
    """Show the choice, in place of the model's attention, what ``pattern`` gives for layer, head and shape [T, S]."""

    def planted(
        translator: Translator, pairs: Sequence[tuple[Segments, Segments]], heads: None, batch_size: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        config = translator.model.config
        for number, (source, target) in enumerate(pairs):
            shape = len(target.ids) + 1, len(source.ids) + 1
            layers, columns = range(config.decoder_layers), range(config.num_heads)
            weights = np.array([[pattern(layer, head, shape) for head in columns] for layer in layers])
            yield number, weights.astype(np.float32)

    monkeypatch.setattr(alignment_heads, "head_matrices", planted)


def uniform(shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, 1 / shape[1])


def copying(shape: tuple[int, int], shift: int = 0) -> np.ndarray:
    """Row t looks at source token t - shift."""
    rows = np.eye(shape[0] + 1, shape[1], k=-shift)[: shape[0]] + 1e-3
    weights: np.ndarray = rows / rows.sum(1, keepdims=True)
    return weights


@pytest.mark.parametrize(("shift", "reading"), [(0, "write"), (1, "read")])
def test_a_planted_head_is_found_by_what_the_model_needs(
    shift: int, reading: str, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the trained model's own; one of its heads is made to copy, the other to look everywhere."""
    plant(monkeypatch, lambda layer, head, shape: copying(shape, shift) if head == 1 else uniform(shape))
    chosen = choose_heads(translator, *texts(120, longest=4))
    assert (chosen.heads, chosen.reading) == (((0, 1),), reading)
    assert chosen.report["agreement"] > 80 > chosen.report["chance"]
    assert chosen.report["diagonal"] == chosen.report["agreement"]  # of a copy
    alone = chosen.report["heads_alone"]
    assert alone[reading][0][1] > 80 > max(alone["write"][0][0], alone["read"][0][0])


@pytest.fixture
def needs_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target word depends on the source word of the same number and on nothing else."""

    def costs(translator: Translator, source: Segments, target: Segments) -> np.ndarray:
        return 5 * np.eye(len(target.units), len(source.units))

    monkeypatch.setattr(alignment_heads, "hiding_costs", costs)


@pytest.mark.usefixtures("needs_copies")
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 3)])
def test_one_head_of_twelve(place: tuple[int, int], untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda layer, head, shape: copying(shape) if (layer, head) == place else uniform(shape))
    chosen = choose_heads(untrained, *texts(60))
    assert (chosen.heads, chosen.reading, chosen.report["agreement"]) == ((place,), "write", 100.0)
    assert chosen.report["clear_words"] == sum(len(text.split()) for text in texts(60)[1] if " " in text)
    assert chosen.report["default"] == (100.0 if place == (1, 2) else pytest.approx(chosen.report["chance"], abs=15))


@pytest.mark.usefixtures("needs_copies")
def test_heads_that_know_half_each_are_chosen_together(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(layer: int, head: int, shape: tuple[int, int]) -> np.ndarray:
        knows = {(0, 1): 0, (2, 0): 1}.get((layer, head))
        weights = uniform(shape)
        if knows is not None:
            weights[knows::2] = copying(shape)[knows::2]
        return weights

    plant(monkeypatch, half)
    chosen = choose_heads(untrained, *texts(60))
    assert (chosen.heads, chosen.report["agreement"]) == (((0, 1), (2, 0)), 100.0)


@pytest.mark.usefixtures("needs_copies")
def test_a_whole_layer_may_be_the_best(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    def quarter(layer: int, head: int, shape: tuple[int, int]) -> np.ndarray:
        weights = uniform(shape)
        if layer == 2:
            weights[head::4] = copying(shape)[head::4]
        return weights

    plant(monkeypatch, quarter)
    monkeypatch.setattr(alignment_heads, "MOST_HEADS", 2)
    chosen = choose_heads(untrained, *texts(60))
    assert (chosen.heads, chosen.report["agreement"]) == (tuple((2, head) for head in range(4)), 100.0)


@pytest.mark.usefixtures("needs_copies")
def test_all_heads_may_be_the_best(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row(layer: int, head: int, shape: tuple[int, int]) -> np.ndarray:
        row = 4 * layer + head
        weights = uniform(shape)
        weights[row : row + 1] = copying(shape)[row : row + 1]
        return weights

    plant(monkeypatch, one_row)
    monkeypatch.setattr(alignment_heads, "MOST_HEADS", 2)
    chosen = choose_heads(untrained, *texts(60))
    assert (len(chosen.heads), chosen.report["agreement"]) == (12, 100.0)


@pytest.mark.usefixtures("needs_copies")
def test_a_head_that_looks_at_the_end_links_nothing(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be no link is no agreement either."""

    def ends(layer: int, head: int, shape: tuple[int, int]) -> np.ndarray:
        weights = uniform(shape)
        if (layer, head) == (0, 0):
            weights = 0.4 * copying(shape)
            weights[:, -1] += 0.6
        if (layer, head) == (1, 1):
            weights = 0.6 * copying(shape)
            weights[:, -1] += 0.4
        return weights

    plant(monkeypatch, ends)
    chosen = choose_heads(untrained, *texts(60))
    assert chosen.heads == ((1, 1),)
    assert chosen.report["heads_alone"]["write"][0][0] == 0.0


def test_hiding_a_word_costs_what_scoring_without_it_says(translator: Translator) -> None:
    """Against the model, one mask at a time; and a copying model misses the word it copies."""
    source, target = (
        segment_text(translator.source_tokenizer, "ba da ga"),
        segment_text(translator.target_tokenizer, "BA DA GA"),
    )
    costs = hiding_costs(translator, source, target)
    scores = translator.score(["ba da ga"], ["BA DA GA"])[0].token_logprobs
    batch = collate([source.ids], [target.ids])
    for hidden in range(3):
        mask = torch.tensor([[number != hidden for number in range(4)]])
        with torch.inference_mode():
            logits = translator.model(batch.source, mask, batch.target_in)
        logprobs = logits.log_softmax(-1)[0].gather(1, batch.target_out[0][:, None])[:, 0]
        np.testing.assert_allclose(costs[:, hidden], np.array(scores[:3]) - logprobs[:3].numpy(), atol=1e-4)
    diagonal = total = 0
    for pair in zip(*texts(40, longest=4), strict=True):
        sides = zip((translator.source_tokenizer, translator.target_tokenizer), pair, strict=True)
        clear, reference = clear_links(hiding_costs(translator, *(segment_text(*side) for side in sides)))
        diagonal, total = diagonal + int((clear == reference).sum()), total + len(clear)
    assert diagonal > 0.8 * total > 20


def test_clear_references() -> None:
    costs = np.array([[3.0, 1.0, 0.0], [3.0, 1.6, 0.0], [0.9, 0.0, 0.0], [-1.0, -5.0, 1.0]])
    clear, reference = clear_links(costs)
    assert (clear.tolist(), reference.tolist()) == ([0, 3], [0, 2])
    assert clear_links(costs[:, :1])[0].tolist() == []  # one source word: nothing to tell apart


def test_the_same_pairs_give_the_same_choice(translator: Translator) -> None:
    sources, targets = texts(130)
    sources[5] = targets[7] = " "
    calls: list[tuple[int, int]] = []
    first = choose_heads(translator, sources, targets, max_pairs=100, progress=lambda *call: calls.append(call))
    assert first == choose_heads(translator, sources, targets, max_pairs=100)
    assert first.report["pairs"] == 100
    assert calls == [(number, 100) for number in range(1, 101)]
    assert json.loads(json.dumps(dict(first.report))) == dict(first.report)
    other = choose_heads(translator, sources, targets)
    assert other.report["pairs"] == 128
    assert other.report["pairs_sha256"] != first.report["pairs_sha256"]


@pytest.mark.parametrize("count", [0, 5])
def test_too_few_pairs_to_choose_on(count: int, translator: Translator) -> None:
    with pytest.raises(DataError, match=rf"^{count} pairs .* and 100, spread over them, are needed .*: give more"):
        choose_heads(translator, *texts(count))


@pytest.mark.usefixtures("needs_copies")
def test_pairs_that_are_too_long_are_passed_over_and_others_not_even_read(
    untrained: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lambda layer, head, shape: copying(shape) if (layer, head) == (1, 2) else uniform(shape))
    sources, targets = texts(120)
    sources[0], sources[1] = "ba " * 20, "da " * 20  # of every two pairs the first is taken
    read: list[str] = []
    segment_pairs = alignment_heads.segment_pairs

    def noted(translator: Translator, sources: list[str], targets: list[str]) -> Any:
        read.extend(sources)
        return segment_pairs(translator, sources, targets)

    monkeypatch.setattr(alignment_heads, "segment_pairs", noted)
    chosen = choose_heads(untrained, sources, targets, max_pairs=60)
    assert (chosen.heads, chosen.report["pairs"], chosen.report["too_long"]) == (((1, 2),), 59, 1)
    assert read == sources[::2]


@pytest.mark.usefixtures("needs_copies")
def test_no_more_than_a_pair_of_all_heads_is_waited_for(untrained: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is done with before the next comes; and where room is scarce, a pair gives fewer words."""
    plant(monkeypatch, lambda layer, head, shape: copying(shape) if (layer, head) == (1, 2) else uniform(shape))
    planted, evidence = alignment_heads.head_matrices, alignment_heads._evidence
    order: list[str] = []

    def giving(*arguments: Any) -> Iterator[tuple[int, np.ndarray]]:
        for one in planted(*arguments):
            order.append("given")
            yield one

    def taking(*arguments: Any) -> Any:
        order.append("taken")
        return evidence(*arguments)

    monkeypatch.setattr(alignment_heads, "head_matrices", giving)
    monkeypatch.setattr(alignment_heads, "_evidence", taking)
    whole = choose_heads(untrained, *texts(160))
    assert order == ["given", "taken"] * 160
    monkeypatch.setattr(alignment_heads, "_MOST_BYTES", 160)
    scarce = choose_heads(untrained, *texts(160))
    assert scarce.heads == whole.heads == ((1, 2),)
    assert scarce.report["clear_words"] == sum(" " in text for text in texts(160)[1]) < whole.report["clear_words"]
