"""Settings of generation, stated once; the part of ``config.py`` that decoding needs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pellucid.settings import Settings

__all__ = ["DecodingConfig"]

SEARCH_ONLY = ("stop", "beam", "diversity_groups", "diversity_strength")
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p")
"""Settings that only one of the two ways to generate has a use for."""

Positive = Annotated[int, Field(ge=1)]


class DecodingConfig(Settings):
    """How to generate."""

    beam_size: Annotated[int, Field(ge=1, le=1024)] = Field(5, description="Beam width; 1 is greedy search.")
    n_best: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Hypotheses returned for a sentence, at most beam_size; with sampling, samples drawn."
    )
    length_penalty: Literal["average", "power", "gnmt", "none"] = Field(
        "average",
        description="Score = Σ log p divided by: length; length^length_alpha; ((5 + length)/6)^length_alpha; 1.",
    )
    length_alpha: Annotated[float, Field(ge=-10.0, le=10.0)] = Field(1.0, description="Exponent of power and gnmt.")
    stop: Literal["exact", "first_k", "top", "heuristic"] = Field(
        "exact",
        description="When a sentence's search ends: exact: when nothing live can enter the n best; first_k: with "
        "beam_size finished; top: when the best of a step is finished; heuristic: with beam_size finished and none "
        "live better if it ended now (transformers' default).",
    )
    beam: Literal["narrowing", "full"] = Field(
        "narrowing",
        description="Hypotheses that end leave the beam narrower for a step, or (full, as in fairseq and transformers) "
        "are replaced by the next best; then those cut by the limit compete with the finished.",
    )
    max_length: Positive | None = Field(
        None, description="Most tokens to generate, </s> included; default: from the two settings below."
    )
    max_length_ratio: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        2.0, description="Without max_length, the limit is ⌈ratio × source tokens, </s> included⌉ + max_length_extra."
    )
    max_length_extra: Annotated[int, Field(ge=1)] = Field(10, description="See max_length_ratio.")
    min_length: Annotated[int, Field(ge=0)] = Field(
        0, description="Fewest tokens to generate before </s>; a limit from max_length_ratio is raised to leave room."
    )
    prefix: str | None = Field(
        None, description="Text that every output begins with: its tokens are forced, whole ones; the model goes on."
    )
    prefix_tokens: tuple[str, ...] = Field(
        (), description="Vocabulary pieces that every output begins with, before `prefix` (a language code, say)."
    )
    forced_score: Literal["counted", "free"] = Field(
        "counted", description="Whether log p of forced tokens counts in the score; free: 0 each (transformers)."
    )
    force_end: bool = Field(
        False, description="Make </s> the last token that the length limit leaves room for (transformers, BART)."
    )
    forbidden_tokens: tuple[str, ...] = Field((), description="Vocabulary pieces that are never generated.")
    allowed_tokens: tuple[str, ...] = Field(
        (), description="If given, the only vocabulary pieces that are generated, besides </s>."
    )
    forbidden_phrases: tuple[str, ...] = Field(
        (), description="Texts whose tokens are never generated one after another, as the tokenizer splits them."
    )
    repetition_penalty: Annotated[float, Field(gt=0.0, le=100.0)] = Field(
        1.0, description="Log p of a token already in the output is multiplied by this (Keskar et al. 2019); 1 = off."
    )
    no_repeat_ngram: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="No n-gram of this many tokens comes twice in an output (Paulus et al. 2018); 0 = off."
    )
    renormalize: bool = Field(
        False,
        description="Share the probability of what must not come among what may, at each step, and score by that "
        "(transformers' renormalize_logits); `score`, which knows no search, does not.",
    )
    diversity_groups: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Diverse beam search (Vijayakumar et al. 2018): groups that beam_size is divided into."
    )
    diversity_strength: Annotated[float, Field(ge=0.0, le=1000.0)] = Field(
        0.5, description="What a token costs a group for every hypothesis of earlier groups that chose it at this step."
    )
    sampling: bool = Field(False, description="Draw tokens by lot instead of searching; n_best samples a sentence.")
    temperature: Annotated[float, Field(ge=0.001, le=100.0)] = Field(
        1.0, description="Sampling: log p is divided by this before tokens are drawn; below 1 is sharper."
    )
    top_k: Positive | None = Field(None, description="Sampling: draw among this many most probable tokens.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="Sampling: among the fewest tokens that hold this probability (Holtzman et al. 2020)."
    )
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="Sampling: among tokens with at least this share of the best one's (Nguyen et al. 2024)."
    )
    typical_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="Sampling: among the most typical tokens that hold this probability (Meister et al. 2023)."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        1, description="Sampling: seed; every input line has random numbers of its own, whatever the batch."
    )
    max_source_length: Positive = Field(
        4096, description="Most tokens of a source, </s> included; a longer one is an error, whatever the positions."
    )
    unknown: Literal["keep", "drop", "copy"] = Field(
        "keep",
        description="What a generated <unk> becomes: ⁇, nothing, or the source token that attention aligns it to "
        "(Luong et al. 2015); for vocabularies of characters or symbols, or without byte_fallback.",
    )
    tag: str | None = Field(
        None,
        description="Tag put in front of every source, by name or in full (talks, <talks>), for models trained on "
        "tagged corpora; an empty one puts none. Default: the tag of the largest corpus if all had one, else none.",
    )
    batch_size: Positive = Field(64, description="Sentences decoded together; the output does not depend on it.")

    @model_validator(mode="after")
    def _consistent(self) -> DecodingConfig:
        if self.sampling:
            self._check_sampling()
        else:
            self._check_search()
        if self.max_length is not None and self.min_length >= self.max_length:
            raise ValueError(
                f"min_length ({self.min_length}) leaves no room for </s> within max_length ({self.max_length}): "
                "lower min_length or raise max_length"
            )
        if both := set(self.forbidden_tokens) & set(self.allowed_tokens):
            raise ValueError(f"{sorted(both)[0]!r} is in forbidden_tokens and in allowed_tokens: take it out of one")
        if self.length_alpha < 0 and self.length_penalty == "gnmt":
            raise ValueError(f"length_alpha ({self.length_alpha}) must not be below 0 with length_penalty: gnmt")
        return self

    def _check_sampling(self) -> None:
        for name, plain in (("diversity_groups", 1), ("stop", "exact"), ("beam", "narrowing")):
            if getattr(self, name) != plain:
                raise ValueError(
                    f"{name} is about search and has no meaning with sampling: true: take one of the two away"
                )

    def _check_search(self) -> None:
        for name in SAMPLING_ONLY:
            if getattr(self, name) != DecodingConfig.model_fields[name].default:
                raise ValueError(f"{name} has no effect without sampling: set sampling to true, or take {name} away")
        if self.n_best > self.beam_size:
            raise ValueError(
                f"n_best ({self.n_best}) must not exceed beam_size ({self.beam_size}): raise beam_size or lower n_best"
            )
        if self.diversity_groups == 1 and self.diversity_strength != 0.5:
            raise ValueError("diversity_strength has no effect without groups: set diversity_groups, or take it away")
        if self.beam_size % self.diversity_groups:
            raise ValueError(
                f"diversity_groups ({self.diversity_groups}) must divide beam_size ({self.beam_size}): "
                "change one of the two"
            )

    def replaced(self, values: Mapping[str, Any]) -> DecodingConfig:
        """These settings with some replaced.

        Where that turns from search to sampling or back, what was set for the other way goes: it is no contradiction.

        Raises:
            pydantic.ValidationError: unknown, out of range, or contradictory.
        """
        kept = self.model_dump()
        if values.get("sampling", self.sampling) != self.sampling:
            kept = {name: value for name, value in kept.items() if name not in SEARCH_ONLY + SAMPLING_ONLY}
        return DecodingConfig.model_validate({**kept, **values})

    def limit(self, source_length: int) -> int:
        """Most tokens to generate, </s> included, for a source of this many tokens."""
        if self.max_length is not None:
            return self.max_length
        limit = -int(-self.max_length_ratio * source_length // 1) + self.max_length_extra
        return max(limit, self.min_length + 1)
