"""A checkpoint's generation settings as ours, so that the plain command writes what transformers' ``generate`` writes.

Knows the two vocabularies of settings; opens no file. What has no counterpart here is returned by name, never dropped.

Where they differ: transformers counts the decoder's first token in ``max_length`` and ``min_length``, a forced token
costs nothing there, and a beam is refilled where a hypothesis ends. Where a checkpoint states no length limit, ours
holds, not the 20 tokens that transformers would then cut at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GenerationSettings", "decoding_settings", "effective"]

# Names that say nothing about which text comes out, or are read elsewhere, or only by what this maps already.
_SILENT = {
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "transformers_version", "use_cache"),
    *("_from_model_config", "cache_implementation", "cache_config", "return_legacy_cache", "return_dict_in_generate"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "disable_compile", "low_memory"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("prefill_chunk_size", "compile_config", "assistant_lookbehind", "target_lookbehind", "lang_to_id", "task_to_id"),
    *("remove_invalid_values", "max_matching_ngram_size"),
}
# What the other names mean when they change nothing.
_IDLE: dict[str, Any] = {
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
    "token_healing": False,
}
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
_LEGACY = (  # generation settings that config.json of older checkpoints holds
    *("num_beams", "num_return_sequences", "length_penalty", "early_stopping", "max_length", "min_length"),
    *("no_repeat_ngram_size", "repetition_penalty", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids"),
    *("suppress_tokens", "begin_suppress_tokens", "do_sample", *_SAMPLING, "num_beam_groups", "diversity_penalty"),
    *("renormalize_logits", "max_new_tokens", "min_new_tokens", "exponential_decay_length_penalty"),
    *_IDLE,
)


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """What was found.

    Attributes:
        decoding: fields of :class:`~pellucid.config.DecodingConfig`.
        unmapped: settings that have no counterpart here, as ``name = value``.
    """

    decoding: dict[str, Any]
    unmapped: list[str]


def effective(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings where they hold: those of config.json only without a generation_config.json."""
    return dict(generation) or {name: config[name] for name in _LEGACY if name in config}


def decoding_settings(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    piece: Callable[[int], str],
    phrase: Callable[[tuple[int, ...]], str | None],
    eos_id: int,
) -> GenerationSettings:
    """Translate a checkpoint's settings.

    Args:
        config: config.json, which holds them where there is no generation_config.json.
        generation: generation_config.json; empty where there is none.
        piece: the vocabulary piece of a number.
        phrase: a text that the tokenizer splits into these numbers; None where there is none.
        eos_id: of ``</s>``.
    """
    found = effective(config, generation)
    given = {name: value for name, value in found.items() if value is not None and name not in _SILENT}
    mapped = _Mapping(given, piece, phrase, eos_id)
    if given.pop("do_sample", False):
        mapped.sampling()
    else:
        mapped.search()
    mapped.lengths()
    mapped.tokens()
    mapped.repetition()
    rest = {name: value for name, value in given.items() if name not in _IDLE or value != _IDLE[name]}
    return GenerationSettings(
        mapped.decoding, [*mapped.unmapped, *(f"{name} = {value}" for name, value in rest.items())]
    )


class _Mapping:
    """Takes settings out of ``given``, one group after the other, and writes ours down."""

    def __init__(
        self,
        given: dict[str, Any],
        piece: Callable[[int], str],
        phrase: Callable[[tuple[int, ...]], str | None],
        eos_id: int,
    ) -> None:
        self.given, self.piece, self.phrase, self.eos_id = given, piece, phrase, eos_id
        self.decoding: dict[str, Any] = {}
        self.unmapped: list[str] = []

    def search(self) -> None:
        for name in _SAMPLING:
            self.given.pop(name, None)  # without sampling they change nothing there either
        beams = self.given.pop("num_beams", 1)
        early = self.given.pop("early_stopping", False)
        # A step of greedy search there ends with the first </s>, whatever early_stopping says.
        stop = "heuristic" if early is False else "first_k" if early is True or beams == 1 else "exact"
        self.decoding |= {"beam_size": beams, "stop": stop, "beam": "full"}
        self.decoding["n_best"] = self.given.pop("num_return_sequences", 1)
        alpha = float(self.given.pop("length_penalty", 1.0))
        self.decoding |= {"length_penalty": "power", "length_alpha": alpha}
        groups, strength = self.given.pop("num_beam_groups", 1), self.given.pop("diversity_penalty", 0.0)
        if groups > 1:
            self.decoding |= {"diversity_groups": groups, "diversity_strength": strength}

    def sampling(self) -> None:
        beams = self.given.pop("num_beams", 1)
        if beams > 1:
            self.unmapped.append(f"num_beams = {beams} together with do_sample")
        for name in ("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"):
            self.given.pop(name, None)
        self.decoding |= {"sampling": True, "n_best": self.given.pop("num_return_sequences", 1)}
        values = {name: self.given.pop(name, default) for name, default in _SAMPLING.items()}
        self.decoding |= {
            "temperature": values["temperature"],
            "top_k": values["top_k"] or None,
            "top_p": values["top_p"],
            "min_p": values["min_p"] or 0.0,
            "typical_p": values["typical_p"],
        }

    def lengths(self) -> None:
        longest, new = self.given.pop("max_length", None), self.given.pop("max_new_tokens", None)
        if new is not None or longest is not None:
            self.decoding["max_length"] = max(1, longest - 1 if new is None else new)
        shortest = max(self.given.pop("min_length", 0) - 1, self.given.pop("min_new_tokens", 0), 0)
        if shortest:
            self.decoding["min_length"] = shortest

    def tokens(self) -> None:
        first = self.given.pop("forced_bos_token_id", None)
        if first is not None:
            self.decoding |= {"prefix_tokens": [self.piece(first)], "forced_score": "free"}
        last = self.given.pop("forced_eos_token_id", None)
        if last == self.eos_id or last == [self.eos_id]:
            self.decoding |= {"force_end": True, "forced_score": "free"}
        elif last is not None:
            self.unmapped.append(f"forced_eos_token_id = {last}")
        forbidden = list(self.given.pop("suppress_tokens", []))
        phrases = []
        for word in self.given.pop("bad_words_ids", []):
            if word == [self.eos_id]:
                continue  # transformers leaves it out too
            if len(word) == 1:
                forbidden += word
            elif (text := self.phrase(tuple(word))) is not None:
                phrases.append(text)
            else:
                self.unmapped.append(f"bad_words_ids: {word}")
        if forbidden:
            self.decoding["forbidden_tokens"] = [self.piece(token) for token in dict.fromkeys(forbidden)]
        if phrases:
            self.decoding["forbidden_phrases"] = phrases
        if self.given.pop("renormalize_logits", False):
            self.decoding["renormalize"] = True

    def repetition(self) -> None:
        if size := self.given.pop("no_repeat_ngram_size", 0):
            self.decoding["no_repeat_ngram"] = size
        penalty = self.given.pop("repetition_penalty", 1.0)
        if penalty != 1.0:
            self.decoding["repetition_penalty"] = penalty
            if self.decoding.get("beam_size", 1) == 1:
                self.unmapped.append(
                    f"repetition_penalty = {penalty} on logits (here, and in transformers' beam search, it is on log p)"
                )
