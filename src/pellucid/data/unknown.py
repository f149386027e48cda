"""What becomes of <unk> in generated text: kept as ⁇, dropped, or replaced by a part of the source.

Knows nothing of models; which source token a generated one is aligned to is handed in. Only vocabularies that leave
something unknown need this: characters, symbols, and SentencePiece without byte fallback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pellucid.data.tokenizer_kinds import Tokenizer

__all__ = ["UnknownPolicy", "source_parts", "write_tokens"]

UnknownPolicy = Literal["keep", "drop", "copy"]


def source_parts(tokenizer: Tokenizer, text: str) -> list[str]:
    """The part of ``text`` that each of its tokens stands for, known or not."""
    return [text[start:end].strip() for start, end in tokenizer.spans(text)]


def write_tokens(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    policy: UnknownPolicy = "keep",
    parts: Sequence[str] = (),
    aligned: Sequence[int] = (),
) -> str:
    """The text of generated token numbers.

    Args:
        tokenizer: of the target side.
        ids: T numbers; <pad>, <s> and </s> stand for nothing.
        policy: ``keep`` writes ⁇ for each <unk>. ``drop`` writes nothing. ``copy`` writes the part of the source that
            it is aligned to (Luong et al. 2015, "Addressing the Rare Word Problem in Neural Machine Translation",
            section 3; fairseq's --replace-unk): the token as it stands in the source, a whole word where tokens are
            words.
        parts: for ``copy``: what :func:`source_parts` gives for the source.
        aligned: for ``copy``: for each of ``ids`` the number of its source token. One that is not in ``parts`` (as
            </s>, behind them, or -1) has nothing to copy: then nothing is written.
    """
    if policy == "keep" or tokenizer.unk_id not in ids:
        return tokenizer.decode(ids)
    if policy == "copy" and len(aligned) != len(ids):
        raise ValueError(f"{len(ids)} tokens need as many source tokens to copy from, not {len(aligned)}")
    text, spans = tokenizer.decode_spans(ids)
    written, end = "", 0
    left_out = False
    for number, (token, (start, stop)) in enumerate(zip(ids, spans, strict=True)):
        shown = text[end:stop]
        if token == tokenizer.unk_id:
            chosen = aligned[number] if policy == "copy" else -1
            copied = parts[chosen] if 0 <= chosen < len(parts) else ""
            shown = text[end:start] + copied
        if left_out and written.endswith(" "):  # of the two spaces around what was left out, one goes with it
            shown = shown.removeprefix(" ")
        left_out = (token == tokenizer.unk_id and not copied) or (left_out and not shown.strip(" "))
        written += shown
        end = max(end, stop)
    return written.strip(" ")
