"""The public face of a trained model, and the decoding contract on it, in text and through the real cache."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pellucid
from pellucid.data.batches import collate
from pellucid.decoding.model_step import CachedStep, UncachedStep
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.search import Sentence, search
from pellucid.errors import ConfigError, DataError, LengthError, ModelFolderError, PellucidError
from pellucid.translator import Generation, Translator
from toys import SYMBOLS


@pytest.fixture(scope="module")
def translator(tiny_run: Path) -> Translator:
    return pellucid.load(tiny_run, device="cpu")


def sentences(count: int, seed: int = 7) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(SYMBOLS, k=rng.randint(1, 6))) for _ in range(count)]


def outputs(generations: list[Generation]) -> list[list[tuple[str, list[int], str]]]:
    return [[(h.text, h.token_ids, h.finish_reason) for h in g.hypotheses] for g in generations]


def scores(generations: list[Generation]) -> np.ndarray:
    return np.array([h.score for g in generations for h in g.hypotheses])


def test_it_has_learned_the_toy_task(translator: Translator) -> None:
    texts = [text for text in sentences(40) if len(text.split()) <= 4]
    right = sum(g.text == text.upper() for g, text in zip(translator.generate(texts), texts, strict=True))
    assert right > len(texts) / 2


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_sentence_does_not_depend_on_its_batch(translator: Translator, beam_size: int) -> None:
    """Contract 3: over batch size, order and padding."""
    texts = sentences(70)
    whole = translator.generate(texts, beam_size=beam_size, n_best=beam_size, batch_size=64)
    for batch_size in (1, 8):
        other = translator.generate(texts, beam_size=beam_size, n_best=beam_size, batch_size=batch_size)
        assert outputs(other) == outputs(whole)
        np.testing.assert_allclose(scores(other), scores(whole), rtol=1e-5)
    shuffled = random.Random(1).sample(range(len(texts)), len(texts))
    other = translator.generate([texts[i] for i in shuffled], beam_size=beam_size, n_best=beam_size)
    assert outputs(other) == [outputs(whole)[i] for i in shuffled]


def test_a_sentence_does_not_depend_on_the_number_of_threads(translator: Translator) -> None:
    """Contract 3."""
    texts = sentences(20)
    single = translator.generate(texts, beam_size=4, n_best=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        double = translator.generate(texts, beam_size=4, n_best=4)
    finally:
        torch.set_num_threads(threads)
    assert outputs(double) == outputs(single)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_cached_equals_uncached(translator: Translator, beam_size: int) -> None:
    """Contract 2: the same tokens and scores, also while sentences leave the batch and beams are reordered."""
    ids = [translator.source_tokenizer.encode(text) for text in sentences(12)]
    batch = collate(ids, ids)
    settings = translator.settings(beam_size=beam_size, n_best=beam_size)
    results = []
    for make in (CachedStep, UncachedStep):
        step = make(translator.model, batch.source, batch.source_mask)
        results.append(search(step, [Sentence(12)] * 12, settings, TokenRules(2, 3, forbidden=(0, 2))))
    for cached, uncached in zip(*results, strict=True):
        assert [h.tokens for h in cached] == [h.tokens for h in uncached]
        assert [h.score for h in cached] == pytest.approx([h.score for h in uncached], abs=1e-5)


def test_a_beam_of_one_is_the_argmax_at_every_step(translator: Translator) -> None:
    """Contract 4, against a loop that knows nothing of search."""
    for text in sentences(10):
        ids = translator.source_tokenizer.encode(text)
        batch = collate([ids], [ids])
        written: list[int] = []
        step = CachedStep(translator.model, batch.source, batch.source_mask)
        token = np.array([2])
        while not written or (written[-1] != 3 and len(written) < 12):
            logprobs = step(token).read().copy()
            logprobs[:, [0, 2]] = -np.inf
            token = logprobs.argmax(-1)
            written.append(int(token[0]))
        (hypothesis,) = translator.generate([text], beam_size=1, max_length=12)[0].hypotheses
        assert hypothesis.token_ids == written


def test_n_best_is_sorted_distinct_and_reproduced_by_forced_scoring(translator: Translator) -> None:
    """Contract 4, and its first entry is the 1-best."""
    texts = sentences(15)
    single = translator.generate(texts, beam_size=5)
    for text, generation, best in zip(texts, translator.generate(texts, beam_size=5, n_best=5), single, strict=True):
        hypotheses = [h for h in generation.hypotheses if h.finish_reason == "eos"]
        assert generation.hypotheses[0].token_ids == best.hypotheses[0].token_ids
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({tuple(h.token_ids) for h in hypotheses}) == len(hypotheses)
        forced = translator.score([text] * len(hypotheses), [h.text for h in hypotheses])
        for hypothesis, score in zip(hypotheses, forced, strict=True):
            assert score.tokens == hypothesis.tokens
            assert score.token_logprobs == pytest.approx(hypothesis.token_logprobs, abs=1e-4)
            assert score.score == pytest.approx(hypothesis.score, abs=1e-4)


def test_the_model_decides_the_length_and_a_limit_says_so(translator: Translator) -> None:
    """Contract 7."""
    free, cut = (translator.generate(["ba da ga ka"], beam_size=1, max_length=n)[0].hypotheses[0] for n in (20, 2))
    assert (free.finish_reason, free.tokens[-1]) == ("eos", "</s>")
    assert (cut.finish_reason, len(cut.tokens)) == ("length", 2)
    assert len(cut.token_logprobs) == len(cut.tokens)


def test_the_price_of_exact_stopping_is_counted(tiny_run: Path) -> None:
    """Contract 6."""
    translator = pellucid.load(tiny_run, device="cpu")
    generations = translator.generate(sentences(10), beam_size=1)
    stats = translator.stats
    assert stats.sentences == 10
    # Greedy search stops with its only hypothesis: no step is spent on being sure.
    assert stats.sentence_steps == stats.settled_steps == sum(len(g.hypotheses[0].tokens) for g in generations)
    translator.generate(sentences(10), beam_size=4)
    assert stats.sentences == 20
    assert stats.sentence_steps >= stats.settled_steps


def test_the_same_call_gives_the_same_answer(translator: Translator) -> None:
    """Contract 12."""
    texts = sentences(10)
    assert translator.generate(texts, beam_size=3, n_best=3) == translator.generate(texts, beam_size=3, n_best=3)


def test_blank_sources_stay_blank_and_in_their_place(translator: Translator) -> None:
    generations = translator.generate(["ba", "", "  ", "da"])
    assert [bool(g.hypotheses) for g in generations] == [True, False, False, True]
    assert [g.text for g in generations][1:3] == ["", ""]
    assert translator.generate([]) == []


def test_inspecting_changes_nothing_and_adds_up(translator: Translator) -> None:
    """Contract 8 and 11: the plain path gives the fused path's numbers; bytes are those of the formula."""
    text = "ba da ga"
    (greedy,) = translator.generate([text], beam_size=1)[0].hypotheses
    seen = translator.inspect(text)
    model = translator.model.config
    assert seen.target_tokens == greedy.tokens
    assert seen.token_logprobs == pytest.approx(greedy.token_logprobs, abs=1e-5)
    assert seen.source_tokens == ["ba", "da", "ga", "</s>"]
    assert seen.cross_attention.shape == (model.decoder_layers, model.num_heads, len(greedy.tokens), 4)
    np.testing.assert_allclose(seen.cross_attention.sum(-1), 1, atol=1e-5)
    per_position = 2 * model.decoder_layers * model.num_heads * model.head_size * 4
    assert seen.cache_used.self_attention == per_position * len(greedy.tokens)
    assert seen.cache_used.cross_attention == per_position * 4
    assert seen.cache_allocated.self_attention >= seen.cache_used.self_attention
    assert translator.inspect(text, greedy.text).token_logprobs == pytest.approx(seen.token_logprobs, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beam_size": 0}, ["beam_size", "greater than or equal to 1"]),
        ({"max_length": 0}, ["max_length", "1"]),
        ({"n_best": 3, "beam_size": 2}, ["n_best (3)", "beam_size (2)"]),
        ({"beam_sise": 2}, ["unknown", "beam_size"]),
        ({"length_penalty": "long"}, ["length_penalty", "'average'"]),
    ],
)
def test_wrong_settings_are_one_sentence(translator: Translator, settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        translator.generate(["ba"], **settings)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_instead_of_a_list_is_refused(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="list"):
        translator.generate("ba da")


def test_scores_need_a_target_for_every_source(translator: Translator) -> None:
    with pytest.raises(DataError, match="2 sources and 1 targets"):
        translator.score(["ba", "da"], ["BA"])
    with pytest.raises(DataError, match="blank"):
        translator.inspect(" ")


def test_a_source_past_the_learned_table_is_refused_by_number_before_computing(tiny_run: Path) -> None:
    from pellucid.config import ModelConfig
    from pellucid.model.transformer import EncoderDecoder

    trained = pellucid.load(tiny_run, device="cpu")
    config = ModelConfig(**{**trained.model.config.model_dump(), "positions": "learned", "max_positions": 6})
    sizes = trained.model.source_vocab_size, trained.model.target_vocab_size
    model = EncoderDecoder(config, *sizes).eval()
    learned = Translator(model, trained.source_tokenizer, trained.target_tokenizer, trained.decoding)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(LengthError, match=r"source 2: a sequence of 7 tokens does not fit the 6 learned positions"):
        learned.generate(["ba", "ba da ga ka la ma"])
    assert not calls
    # The target table is a limit, too: it cuts, and says so.
    (hypothesis,) = learned.generate(["ba da ga ka la"], beam_size=1, max_length=50)[0].hypotheses
    assert len(hypothesis.tokens) <= 6


def test_a_run_folder_gives_its_best_model(tiny_run: Path) -> None:
    assert pellucid.load(tiny_run).folder == tiny_run / "best"
    assert pellucid.load(tiny_run / "last").folder == tiny_run / "last"


def test_folders_that_are_not_models_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    cases = {"missing": "no such", "empty": "not a model folder", "file": "a file, where"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, words in cases.items():
        with pytest.raises(ModelFolderError, match=words):
            pellucid.load(tmp_path / name)
    other = shutil.copytree(tiny_run / "best", tmp_path / "other")
    tokenizer = next((other / "tokenizer").iterdir())
    tokenizer.write_bytes(tokenizer.read_bytes()[:10])
    with pytest.raises(PellucidError):
        pellucid.load(other)
