"""What is asked of a trace, checked as far as it can be without a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pellucid.errors import ConfigError
from pellucid.settings import Settings, explain

__all__ = ["MAX_BEAM", "MAX_PADDING", "MAX_TOP_K", "Corruption", "TraceRequest"]

MAX_BEAM = 16
MAX_TOP_K = 50
MAX_PADDING = 8

TokenId = Annotated[int, Field(ge=0)]


class Corruption(Settings):
    """One wrong token in the prefix."""

    at: Annotated[int, Field(ge=0, description="Row of the target.")]
    token: Annotated[int, Field(ge=0, description="Number of the token to put there.")]


class TraceRequest(Settings):
    """The arguments of a trace; what is None is the model's setting, or chosen."""

    text: str = Field(description="The source.")
    beam_size: Annotated[int, Field(ge=1, le=MAX_BEAM)] | None = Field(None, description="Beam width.")
    n_best: Annotated[int, Field(ge=1, le=MAX_BEAM)] | None = Field(None, description="Hypotheses; default: all.")
    length_penalty: Literal["average", "power", "gnmt", "none"] | None = Field(None, description="As in generation.")
    length_alpha: Annotated[float, Field(ge=-10.0, le=10.0)] | None = Field(None, description="As in generation.")
    max_length: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="Most target tokens.")
    prefix_ids: tuple[TokenId, ...] = Field((), description="Target tokens that every hypothesis begins with.")
    permutation: tuple[TokenId, ...] | None = Field(None, description="Order of the source in the ablation.")
    corrupt: Corruption | None = Field(None, description="The wrong token; default: a likely one.")
    cover: bool = Field(True, description="Whether source words are covered one by one.")
    padding: Annotated[int, Field(ge=0, le=MAX_PADDING)] = Field(0, description="Padding tokens behind the source.")
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = Field(10, description="Candidates kept of each step.")

    @model_validator(mode="after")
    def _consistent(self) -> TraceRequest:
        if self.n_best is not None and self.beam_size is not None and self.n_best > self.beam_size:
            raise ValueError(f"n_best ({self.n_best}) must not exceed beam_size ({self.beam_size})")
        return self

    @classmethod
    def read(cls, values: dict[str, Any]) -> TraceRequest:
        """A request from named values.

        Raises:
            ConfigError: one is unknown or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls)) from None
