"""Unknown words of generated text replaced by the part of the source they are aligned to: ``unknown: copy``.

Joins attention (``alignment.py``) and text (``data/unknown.py``); knows nothing of how either does its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pellucid.alignment import Alignment, align_generations, segment_generations
from pellucid.data.units import Segments
from pellucid.data.unknown import source_parts, write_tokens
from pellucid.translator import GeneratedText, Generation, Translator

__all__ = ["copy_unknown"]


def copy_unknown(translator: Translator, generations: Sequence[Generation]) -> list[Generation]:
    """The same generations, each <unk> in their texts replaced by the source token that attention aligns it to.

    What attention aligns to nothing of the source is left out. Only the text changes: tokens and scores are what the
    model gave. One more forward pass over the generations that have an unknown token is what it costs.
    """
    unk_id = translator.target_tokenizer.unk_id
    concerned = [g for g in generations if any(unk_id in hypothesis.token_ids for hypothesis in g.hypotheses)]
    segments = iter(segment_generations(translator, concerned, "tokens"))
    copied: dict[int, Generation] = {}
    for generation, alignments in zip(concerned, align_generations(translator, concerned, units="tokens"), strict=True):
        parts = source_parts(translator.source_tokenizer, translator.rules.read_source(generation.source))
        places = [_aligned(translator, alignment, next(segments)) for alignment in alignments]
        hypotheses = [
            _with_text(translator, generation.source, hypothesis, parts, aligned)
            for hypothesis, aligned in zip(generation.hypotheses, places, strict=True)
        ]
        copied[id(generation)] = replace(generation, hypotheses=hypotheses)
    return [copied.get(id(generation), generation) for generation in generations]


def _aligned(translator: Translator, alignment: Alignment, segments: tuple[Segments, Segments]) -> dict[int, int]:
    """Place of a generated token → place of its source token among those of the text alone.

    Links are between units, and not every token is one: language codes and the like are not.
    """
    source, target = (side.first_tokens() for side in segments)
    framing = len(translator.source_tokenizer.prefix_ids)
    return {target[row]: source[column] - framing for column, row in alignment.links}


def _with_text(
    translator: Translator, source: str, hypothesis: GeneratedText, parts: Sequence[str], aligned: dict[int, int]
) -> GeneratedText:
    tokenizer = translator.target_tokenizer
    ids = [token for token in hypothesis.token_ids if token != tokenizer.eos_id]
    text = write_tokens(tokenizer, ids, "copy", parts, [aligned.get(place, -1) for place in range(len(ids))])
    return replace(hypothesis, text=translator.rules.write(text, source).text)
