"""Settings of generation that are given as text, turned into tokens of a vocabulary.

Knows a tokenizer and the rules of its text; knows nothing of models or search.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rapidfuzz import process

from pellucid.config import DecodingConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.decoding.rules import TokenRules
from pellucid.errors import ConfigError

__all__ = ["TokenSettings"]


class TokenSettings:
    """What settings mean in a vocabulary.

    Args:
        tokenizer: of the target side.
        text_rules: what is done to target text in front of it.
    """

    def __init__(self, tokenizer: Tokenizer, text_rules: TextRules) -> None:
        self._tokenizer, self._text_rules = tokenizer, text_rules

    def rules(self, config: DecodingConfig) -> TokenRules:
        """The rules that ``forbidden_tokens``, ``allowed_tokens`` and ``forbidden_phrases`` make.

        Raises:
            ConfigError: one of the pieces is not in the vocabulary.
        """
        phrases = [tuple(self._encode(phrase)) for phrase in config.forbidden_phrases]
        forbidden = [self._number(piece, "forbidden_tokens") for piece in config.forbidden_tokens]
        return TokenRules(
            self._tokenizer.bos_id,
            self._tokenizer.eos_id,
            forbidden=(*self._tokenizer.suppressed_ids, *forbidden, *(ids[0] for ids in phrases if len(ids) == 1)),
            allowed=tuple(self._number(piece, "allowed_tokens") for piece in config.allowed_tokens) or None,
            forbidden_sequences=tuple(ids for ids in phrases if len(ids) > 1),
        )

    def prefix(self, config: DecodingConfig, text: str | None = None) -> tuple[int, ...]:
        """The tokens that an output must begin with: ``prefix_tokens``, then ``text``, by default ``prefix``.

        Raises:
            ConfigError: one of the pieces is not in the vocabulary.
        """
        text = config.prefix if text is None else text
        return (*(self._number(piece, "prefix_tokens") for piece in config.prefix_tokens), *self._encode(text or ""))

    def check(self, config: DecodingConfig) -> None:
        """See that the settings fit each other, whatever the texts.

        Raises:
            ConfigError: the forced prefix holds what is forbidden, or more than ``max_length`` has room for.
        """
        rules, prefix = self.rules(config), self.prefix(config)
        for token in prefix:
            if not rules.permits(token):
                (piece,) = self._tokenizer.pieces([token])
                raise ConfigError(
                    f"the forced prefix holds {piece!r}, which is forbidden: change the prefix or the forbidden and "
                    "allowed tokens"
                )
        if config.max_length is not None and len(prefix) >= config.max_length:
            raise ConfigError(
                f"the forced prefix has {len(prefix)} tokens, and only {config.max_length} may be generated, </s> "
                "included: shorten it or raise max_length"
            )

    def counted(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float],
        config: DecodingConfig,
        limit: int,
        prefix_text: str | None = None,
    ) -> list[float]:
        """Log p of a target's tokens as search counts them: repeated ones cost more, forced ones never, or are free.

        Args:
            ids, logprobs: of the target's tokens.
            config: settings.
            limit: of its source: the most tokens that may be generated.
            prefix_text: what it was forced to begin with; default: the setting ``prefix``.
        """
        has_free = config.forced_score == "free"
        prefix = self.prefix(config, prefix_text)
        counted, seen = [], {self._tokenizer.bos_id}
        for place, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
            forced = place < len(prefix) and token == prefix[place]
            forced |= config.force_end and place == limit - 1 and token == self._tokenizer.eos_id
            repeated = token in seen and not forced
            counted.append(0.0 if forced and has_free else logprob * (config.repetition_penalty if repeated else 1.0))
            seen.add(token)
        return counted

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(self._text_rules.read_target(text, ""))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of every piece of the vocabulary; the first, where a piece is there twice."""
        pieces = self._tokenizer.pieces(list(range(self._tokenizer.vocab_size)))
        return {piece: number for number, piece in reversed(list(enumerate(pieces)))}

    def _number(self, piece: str, setting: str) -> int:
        number = self._numbers.get(piece)
        if number is None:
            nearest = process.extractOne(piece, list(self._numbers))
            raise ConfigError(
                f"{setting}: {piece!r} is not a piece of the target vocabulary; the nearest is {nearest[0]!r} "
                "(translate --json shows the pieces of an output)"
            )
        return number
