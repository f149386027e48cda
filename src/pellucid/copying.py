"""Unknown words of generated text replaced by the part of the source they are aligned to: ``unknown: copy``.

Joins attention (``alignment.py``) and text (``data/unknown.py``); knows nothing of how either does its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pellucid.alignment import Alignment, align_generations
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
    found = iter(align_generations(translator, concerned, units="tokens"))
    copied = {id(generation): _copied(translator, generation, next(found)) for generation in concerned}
    return [copied.get(id(generation), generation) for generation in generations]


def _copied(translator: Translator, generation: Generation, alignments: Sequence[Alignment]) -> Generation:
    parts = source_parts(translator.source_tokenizer, translator.rules.read_source(generation.source))
    hypotheses = [
        _with_text(translator, generation.source, hypothesis, parts, alignment)
        for hypothesis, alignment in zip(generation.hypotheses, alignments, strict=True)
    ]
    return replace(generation, hypotheses=hypotheses)


def _with_text(
    translator: Translator, source: str, hypothesis: GeneratedText, parts: Sequence[str], alignment: Alignment
) -> GeneratedText:
    tokenizer = translator.target_tokenizer
    ids = [token for token in hypothesis.token_ids if token != tokenizer.eos_id]
    linked = {target: chosen for chosen, target in alignment.links}
    text = write_tokens(tokenizer, ids, "copy", parts, [linked.get(place, -1) for place in range(len(ids))])
    return replace(hypothesis, text=translator.rules.write(text, source).text)
