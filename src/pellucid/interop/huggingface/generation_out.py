"""Our generation settings as a ``generation_config.json``: the way back of ``generation.py``.

Knows the two vocabularies of settings; opens no file. What transformers cannot be told is returned as text, never
dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pellucid.config import DecodingConfig

__all__ = ["generation_document"]

_LENGTH = 512
"""Most new tokens where our limit depends on the source: transformers knows only one number."""


def generation_document(
    decoding: DecodingConfig, number: Callable[[str], int | None], suppressed: tuple[int, ...], longest: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Translate our settings.

    Args:
        decoding: of the model.
        number: the number of a vocabulary piece; None where there is none.
        suppressed: tokens that are never generated, whatever the settings say.
        longest: positions that the decoder has; None = no limit.

    Returns:
        Entries of generation_config.json; and what could not be said there, as ``name = value`` with the reason.
    """
    written: dict[str, Any] = {}
    left: list[str] = []

    def cannot(name: str, why: str = "") -> None:
        value = getattr(decoding, name)
        left.append(f"{name} = {value}{': ' + why if why else ''}")

    if decoding.sampling:
        written |= {"do_sample": True, "num_return_sequences": decoding.n_best, "temperature": decoding.temperature}
        written |= {"top_k": decoding.top_k or 0, "top_p": decoding.top_p, "typical_p": decoding.typical_p}
        if decoding.min_p:
            written["min_p"] = decoding.min_p
    else:
        written |= _search(decoding, cannot)
    room = _LENGTH if longest is None else min(_LENGTH, longest)
    written["max_new_tokens"] = decoding.max_length or room
    if decoding.max_length is None:
        left.append(
            f"max_length_ratio = {decoding.max_length_ratio}: transformers knows no limit that depends on the source; "
            f"max_new_tokens is {room}"
        )
    if decoding.min_length:
        written["min_new_tokens"] = decoding.min_length
    if decoding.repetition_penalty != 1.0:
        written["repetition_penalty"] = decoding.repetition_penalty
    if decoding.no_repeat_ngram:
        written["no_repeat_ngram_size"] = decoding.no_repeat_ngram
    if decoding.renormalize:
        written["renormalize_logits"] = True
    if decoding.force_end:
        written["forced_eos_token_id"] = number("</s>")
    if len(decoding.prefix_tokens) == 1 and decoding.forced_score == "free":
        written["forced_bos_token_id"] = number(decoding.prefix_tokens[0])
    elif decoding.prefix_tokens:
        cannot("prefix_tokens")
    forbidden = [number(piece) for piece in decoding.forbidden_tokens]
    if never := [*suppressed, *(token for token in forbidden if token is not None)]:
        written["suppress_tokens"] = list(dict.fromkeys(never))
    for name in ("prefix", "allowed_tokens", "forbidden_phrases"):
        if getattr(decoding, name):
            cannot(name)
    if decoding.unknown == "copy":
        cannot("unknown")
    return written, left


def _search(decoding: DecodingConfig, cannot: Callable[..., None]) -> dict[str, Any]:
    written: dict[str, Any] = {"num_beams": decoding.beam_size}
    if decoding.n_best > 1:
        written["num_return_sequences"] = decoding.n_best
    if decoding.length_penalty == "gnmt":
        cannot("length_penalty", "length_penalty 1.0 (the average) in its place")
    alpha = {"power": decoding.length_alpha, "none": 0.0}.get(decoding.length_penalty, 1.0)
    written["length_penalty"] = alpha
    if decoding.beam_size == 1:
        return written
    written["early_stopping"] = decoding.stop == "first_k"
    if decoding.stop == "exact" and decoding.max_length is not None:
        written["early_stopping"] = "never"
    elif decoding.stop == "exact":
        # Its bound uses the length limit: against a limit of hundreds of tokens every search would run to the limit.
        cannot("stop", "early_stopping false in its place, which ends a little earlier")
    elif decoding.stop == "top":
        cannot("stop", "early_stopping false in its place")
    if decoding.beam == "narrowing":
        cannot("beam", "transformers refills a beam where a hypothesis ends")
    if decoding.diversity_groups > 1:
        written |= {"num_beam_groups": decoding.diversity_groups, "diversity_penalty": decoding.diversity_strength}
    return written
