"""A decoder alone: the given text is a prompt, and what is generated continues it.

The public face is that of :class:`~pellucid.translator.Translator`; what asks for an encoder is refused by name.
Shapes: P prompt tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pellucid.config import DecodingConfig
from pellucid.data.text import Written
from pellucid.data.tokenizer_kinds import Tokenizer, framed
from pellucid.decoding.prompt_step import PromptStep
from pellucid.decoding.search import Sentence
from pellucid.errors import ConfigError, LengthError, PellucidError
from pellucid.model.alone import DecoderOnly
from pellucid.results import Inspection
from pellucid.translator import Translator

if TYPE_CHECKING:
    from pellucid.tracer.tracer import Tracer

__all__ = ["LanguageModel"]


class LanguageModel(Translator):
    """A decoder with its tokenizer.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: of prompts and of what continues them.
        decoding: settings used where a call gives none; lengths count what is generated, not the prompt.
        folder: where it was loaded from.
        document: what is known about it.
    """

    model: DecoderOnly  # type: ignore[assignment]

    def __init__(
        self,
        model: DecoderOnly,
        tokenizer: Tokenizer,
        decoding: DecodingConfig,
        folder: Path | None = None,
        document: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._set_up(tokenizer, tokenizer, decoding, folder, document, None)

    def need_source(self, purpose: str) -> None:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{purpose} looks at an encoder and a decoder, and this model is a decoder alone")

    def _encode_source(self, text: str, number: int, config: DecodingConfig | None = None) -> list[int]:
        ids = framed(self.source_tokenizer, self.source_tokenizer.encode(text)) if text.strip() else []
        try:
            self.model.decoder.embedder.positions.check(len(ids) + 1)
        except LengthError as error:
            raise LengthError(error.reason, number=number) from None
        if config is not None and len(ids) > config.max_source_length:
            raise LengthError(
                f"a prompt of {len(ids)} tokens is longer than max_source_length ({config.max_source_length}): "
                "shorten it, or raise max_source_length",
                number=number,
            )
        return ids

    def _encode_target(self, text: str, number: int, source: str, config: DecodingConfig | None = None) -> list[int]:
        return self.target_tokenizer.encode(text)

    def _start(self, sources: list[list[int]], sentences: Sequence[Sentence] = ()) -> PromptStep:
        return PromptStep(self.model, sources)

    def _longest_output(self, ids: list[int]) -> int | None:
        longest = self.model.decoder.embedder.positions.max_length
        # The last token that is written needs no position: nothing comes behind it.
        return None if longest is None else longest - len(ids) + 1

    @torch.inference_mode()
    def _forced(self, pairs: list[tuple[list[int], list[int]]]) -> list[list[float]]:
        found = []
        for number, (prompt, target) in enumerate(pairs, 1):
            if not prompt:
                raise ConfigError(f"text {number}: a blank prompt has nothing to be continued: give some text")
            ids = [*prompt, *target, self.target_tokenizer.eos_id]
            logits = self.model(torch.tensor([ids[:-1]], device=self.device))[0, len(prompt) - 1 :]
            wanted = torch.tensor(ids[len(prompt) :], device=self.device)
            logprobs = logits.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            if logprobs.isnan().any():
                raise PellucidError(
                    "the model's log-probabilities contain NaN: its weights are broken; check the checkpoint"
                )
            found.append(logprobs.tolist())
        return found

    def _written(self, tokens: Sequence[int], source: str, config: DecodingConfig) -> Written:
        # The space between the two belongs to the continuation.
        prompt = framed(self.source_tokenizer, self.source_tokenizer.encode(source))
        before = self.target_tokenizer.decode(prompt)
        whole = self.target_tokenizer.decode([*prompt, *tokens])
        text = whole[len(before) :] if whole.startswith(before) else self.target_tokenizer.decode(tokens)
        return self.rules.write(text, source)

    def inspect(self, source: str, target: str | Sequence[int] | None = None) -> Inspection:
        """Not for a decoder alone, which has no cross-attention.

        Raises:
            ConfigError: always.
        """
        self.need_source("inspect")
        raise AssertionError

    @property
    def tracer(self) -> Tracer:
        """Not for a decoder alone, likewise.

        Raises:
            ConfigError: always.
        """
        self.need_source("trace")
        raise AssertionError
