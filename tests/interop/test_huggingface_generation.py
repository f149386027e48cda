"""Generation settings of checkpoints as ours: what each means, and that nothing is dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid.config import DecodingConfig
from pellucid.interop.huggingface.generation import GenerationSettings, decoding_settings

EOS = 2
PLAIN = dict(beam_size=1, n_best=1, stop="heuristic", beam="full", length_penalty="power", length_alpha=1.0)


def mapped(generation: dict[str, Any], config: dict[str, Any] | None = None) -> GenerationSettings:
    found = decoding_settings(
        config or {}, generation, lambda n: f"p{n}", lambda ids: "a b" if ids == (7, 8) else None, EOS
    )
    DecodingConfig.model_validate(found.decoding)  # whatever comes out can be used
    return found


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_beams": 4}, {"beam_size": 4}),
        ({"num_beams": 4, "num_return_sequences": 3}, {"beam_size": 4, "n_best": 3}),
        ({"num_beams": 4, "early_stopping": True}, {"beam_size": 4, "stop": "first_k"}),
        ({"num_beams": 4, "early_stopping": "never"}, {"beam_size": 4, "stop": "exact"}),
        ({"early_stopping": "never"}, {"stop": "first_k"}),
        ({"length_penalty": -0.8}, {"length_alpha": -0.8}),
        ({"max_length": 128}, {"max_length": 127}),  # the decoder's first token counts there
        ({"max_new_tokens": 5, "max_length": 128}, {"max_length": 5}),
        ({"min_length": 10}, {"min_length": 9}),
        ({"min_new_tokens": 10, "min_length": 3}, {"min_length": 10}),
        ({"min_length": 0}, {}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram": 3}),
        ({"num_beams": 2, "repetition_penalty": 1.5}, {"beam_size": 2, "repetition_penalty": 1.5}),
        ({"forced_bos_token_id": 7}, {"prefix_tokens": ["p7"], "forced_score": "free"}),
        ({"forced_eos_token_id": EOS}, {"force_end": True, "forced_score": "free"}),
        ({"forced_eos_token_id": [EOS]}, {"force_end": True, "forced_score": "free"}),
        ({"bad_words_ids": [[9], [EOS], [7, 8]]}, {"forbidden_tokens": ["p9"], "forbidden_phrases": ["a b"]}),
        ({"suppress_tokens": [9, 5], "bad_words_ids": [[5]]}, {"forbidden_tokens": ["p9", "p5"]}),
        ({"renormalize_logits": True}, {"renormalize": True}),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.3},
         {"beam_size": 4, "diversity_groups": 2, "diversity_strength": 0.3}),
        ({"temperature": 0.5, "top_k": 10, "top_p": 0.9, "typical_p": 0.9}, {}),  # change nothing without do_sample
        ({"encoder_no_repeat_ngram_size": 0, "guidance_scale": 1.0, "renormalize_logits": False}, {}),
        ({"pad_token_id": 1, "use_cache": True, "transformers_version": "4.0", "output_scores": False}, {}),
        ({"num_beams": None, "max_length": None}, {}),
    ],
)  # fmt: skip
def test_settings_of_search(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    found = mapped(theirs)
    assert found.decoding == {**PLAIN, **ours}
    assert found.unmapped == []


def test_settings_of_sampling() -> None:
    found = mapped({"do_sample": True, "num_return_sequences": 2, "top_p": 0.9, "length_penalty": 2.0, "max_length": 9})
    expected = dict(sampling=True, n_best=2, temperature=1.0, top_k=50, top_p=0.9, min_p=0.0, typical_p=1.0)
    assert found.decoding == {**expected, "max_length": 8}
    assert found.unmapped == []
    assert mapped({"do_sample": True, "top_k": 0}).decoding["top_k"] is None


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"begin_suppress_tokens": [5]}, "begin_suppress_tokens = [5]"),
        ({"encoder_no_repeat_ngram_size": 4}, "encoder_no_repeat_ngram_size = 4"),
        ({"exponential_decay_length_penalty": [5, 1.2]}, "exponential_decay_length_penalty = [5, 1.2]"),
        ({"bad_words_ids": [[7, 9]]}, "bad_words_ids: [7, 9]"),
        ({"forced_eos_token_id": 9}, "forced_eos_token_id = 9"),
        ({"do_sample": True, "num_beams": 3}, "num_beams = 3 together with do_sample"),
        ({"something_new": "x"}, "something_new = x"),
        (
            {"repetition_penalty": 1.2},
            "repetition_penalty = 1.2 on logits (here, and in transformers' beam search, it is on log p)",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(theirs: dict[str, Any], said: str) -> None:
    assert mapped(theirs).unmapped == [said]


def test_settings_in_the_config_count_only_where_there_is_no_other_file() -> None:
    config = {"num_beams": 4, "max_length": 30, "d_model": 8}
    assert mapped({}, config).decoding == {**PLAIN, "beam_size": 4, "max_length": 29}
    assert mapped({"num_beams": 2}, config).decoding == {**PLAIN, "beam_size": 2}
