"""Every setting, stated once: its name, type, default, range and meaning.

The command line, the YAML files, the resolved config in a run folder and the pages in ``docs/`` are all made from these
classes. How a group of settings is read and refused is in settings.py. This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pellucid.errors import ConfigError
from pellucid.settings import Settings, explain, merged, read_override, read_yaml

__all__ = [
    "Config",
    "CorpusConfig",
    "DataConfig",
    "DecodingConfig",
    "ModelConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "dump_config",
    "explain",
    "load_config",
    "parse_config",
]

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Column = Annotated[int, Field(ge=0)] | str
FileName = Annotated[str, Field(coerce_numbers_to_str=True)]  # YAML reads `output: 2024` as a number


class CorpusConfig(Settings):
    """One parallel corpus: two aligned text files, or one file that holds both sides.

    Compression (.gz, .zst, .xz) is recognised by the file's ending.
    """

    source: FileName | None = Field(None, description="File with one source sentence a line; goes with `target`.")
    target: FileName | None = Field(None, description="File with one target sentence a line, aligned with `source`.")
    path: FileName | None = Field(None, description="One file with both sides: .tsv, .jsonl or .parquet.")
    source_column: Column = Field(
        0, description="Where the source side is in `path`: a 0-based column (TSV) or a key (JSONL, Parquet)."
    )
    target_column: Column = Field(1, description="Where the target side is in `path`, likewise.")

    @model_validator(mode="after")
    def _one_form(self) -> CorpusConfig:
        two = (self.source is not None) + (self.target is not None)
        if (two == 1) or (two == 2) == (self.path is not None):
            raise ValueError("give either source and target (two aligned files) or path (one file with both sides)")
        return self


class DataConfig(Settings):
    """What to train on, what to validate on, and what to do with lines that should not be there."""

    dir: FileName | None = Field(None, description="Folder that the relative paths below start from.")
    train: CorpusConfig | None = Field(None, description="The corpus to train on.")
    dev: CorpusConfig | None = Field(
        None, description="The corpus to validate on; without one, `holdout` pairs of `train` are set aside."
    )
    test: CorpusConfig | None = Field(None, description="A corpus that training never sees, for `evaluate`.")
    holdout: Positive = Field(
        1000, description="Pairs set aside for validation (at most a tenth), chosen by a hash of their source text."
    )
    on_bad_line: Literal["error", "drop"] = Field(
        "error", description="Lines that are not UTF-8 or have too few columns: stop, or drop them with a count."
    )
    max_source_tokens: Positive = Field(256, description="Pairs with a longer source are dropped, with a count.")
    max_target_tokens: Positive = Field(256, description="Pairs with a longer target are dropped, with a count.")
    max_length_ratio: float = Field(
        9.0,
        gt=1.0,
        description="Pairs whose sides differ in tokens by more than this factor are dropped, with a count.",
    )
    max_unknown: Share = Field(
        0.02, description="Largest share of unknown tokens on a side of `dev` before training is refused."
    )


class TokenizerConfig(Settings):
    """How text becomes tokens."""

    kind: Literal["sentencepiece", "characters", "symbols"] = Field(
        "sentencepiece", description="Subwords learned from the text, single characters, or space-separated symbols."
    )
    target_kind: Literal["sentencepiece", "characters", "symbols"] | None = Field(
        None, description="Kind for the target side where it differs; then the vocabularies are separate."
    )
    joint: bool = Field(True, description="One vocabulary for both sides, or one for each.")
    model: Literal["unigram", "bpe"] = Field("unigram", description="SentencePiece model type.")
    vocab_size: Annotated[int, Field(ge=16, le=1_000_000)] = Field(
        8000, description="Pieces in a SentencePiece vocabulary (each, if separate); fewer if the text has no more."
    )
    byte_fallback: bool = Field(
        True, description="Spell unknown characters as UTF-8 bytes, so that nothing is unknown."
    )
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0)] = Field(
        1.0, description="Share of the training text's characters that get a piece of their own."
    )
    normalization: Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"] = Field(
        "nmt_nfkc", description="Unicode normalisation that SentencePiece applies first (cf = case folding)."
    )
    sampling_alpha: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0,
        description="Subword regularisation (Kudo 2018): sharpness of sampling from the 64 best splits; 0 = off.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        if self.sampling_alpha and (self.kind, self.model) != ("sentencepiece", "unigram"):
            raise ValueError(
                "sampling_alpha needs kind: sentencepiece and model: unigram (other models have no n-best list)"
            )
        return self

    @property
    def is_joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.joint and self.target_kind in (None, self.kind)


Preset = Literal["tiny", "small", "base"]

# `base` is the base model of Vaswani et al. 2017, table 3 (post-norm, three-way tying). `tiny` and `small` are what the
# demo and the Multi30k recipe train; recipes/README.md has their scores.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(hidden_size=128, encoder_layers=2, decoder_layers=2, num_heads=4, ff_size=512),
    "small": dict(hidden_size=256, encoder_layers=3, decoder_layers=3, num_heads=4, ff_size=1024),
    "base": dict(
        hidden_size=512,
        encoder_layers=6,
        decoder_layers=6,
        num_heads=8,
        ff_size=2048,
        norm_placement="post",
        dropout=0.1,
    ),
}


class ModelConfig(Settings):
    """The architecture: an encoder-decoder Transformer (Vaswani et al. 2017) and its usual variations."""

    preset: Preset | None = Field(None, description="Defaults for the sizes below; what is given beside it wins.")
    hidden_size: Positive = Field(256, description="Width of the residual stream, M.")
    encoder_layers: Positive = Field(3, description="Layers of the encoder.")
    decoder_layers: Positive = Field(3, description="Layers of the decoder.")
    num_heads: Positive = Field(4, description="Query heads, H; head size D = hidden_size / num_heads.")
    num_kv_heads: Positive | None = Field(
        None, description="Key/value heads of self-attention, G: num_heads (default), a divisor of it (grouped), 1."
    )
    cross_num_kv_heads: Positive | None = Field(
        None, description="Key/value heads of cross-attention; default: num_kv_heads."
    )
    ff_size: Positive = Field(1024, description="Inner width of the feed-forward blocks, F.")
    activation: Literal["relu", "gelu", "swiglu"] = Field("relu", description="Feed-forward activation.")
    norm: Literal["layernorm", "rmsnorm"] = Field("layernorm", description="Normalisation.")
    norm_placement: Literal["pre", "post"] = Field(
        "pre", description="Before each sublayer (with one more norm at the end of a stack), or after the residual sum."
    )
    positions: Literal["sinusoidal", "learned", "rotary", "none"] = Field(
        "sinusoidal", description="How order enters: added (sinusoidal, learned), by rotating queries and keys, or not."
    )
    max_positions: Positive = Field(512, description="Length of a learned position table; nothing else has a limit.")
    tied_embeddings: Literal["three", "two", "none"] = Field(
        "three", description="Share source, target and output matrix; target and output; or nothing."
    )
    scale_embeddings: bool = Field(True, description="Multiply embeddings by √hidden_size (2017, section 3.4).")
    bias: bool = Field(True, description="Bias terms in the linear layers.")
    dropout: Share = Field(0.1, description="On embeddings and on each sublayer's output (2017, section 5.4).")
    attention_dropout: Share = Field(0.0, description="On attention weights.")
    ff_dropout: Share = Field(0.0, description="On the feed-forward block's inner activations.")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, Mapping) else None
        return {**PRESETS[preset], **values} if isinstance(preset, str) and preset in PRESETS else values

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of num_heads ({self.num_heads})")
        for name in ("num_kv_heads", "cross_num_kv_heads"):
            heads = getattr(self, name)
            if heads is not None and self.num_heads % heads:
                raise ValueError(f"{name} ({heads}) must divide num_heads ({self.num_heads})")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_size}")
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"sinusoidal positions need an even hidden_size, not {self.hidden_size}")
        return self

    @property
    def head_size(self) -> int:
        """Size of one head, D."""
        return self.hidden_size // self.num_heads

    @property
    def self_kv_heads(self) -> int:
        """Key/value heads of self-attention, resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def cross_kv_heads(self) -> int:
        """Key/value heads of cross-attention, resolved."""
        return self.cross_num_kv_heads or self.self_kv_heads


class TrainingConfig(Settings):
    """How to train."""

    batch_tokens: Annotated[int, Field(ge=16)] = Field(
        4096, description="Largest rows × longest side of a batch, padding included."
    )
    accumulate: Positive = Field(1, description="Batches whose gradients make one update.")
    max_updates: Positive | None = Field(None, description="Stop after this many updates.")
    max_epochs: Positive | None = Field(
        None, description="Stop after this many passes over the data; 20 where max_updates is not given either."
    )
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(2e-3, description="Highest learning rate.")
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = Field(
        "cosine", description="Course of the learning rate after the warm-up; cosine and linear end at the last update."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(400, description="Updates of linear warm-up.")
    final_learning_rate: Share = Field(0.02, description="Where cosine and linear end, as a share of learning_rate.")
    adam_beta1: Share = Field(0.9, description="AdamW: decay of the first moment.")
    adam_beta2: Share = Field(0.98, description="AdamW: decay of the second moment.")
    adam_epsilon: Annotated[float, Field(gt=0.0)] = Field(1e-9, description="AdamW: added to the denominator.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="AdamW: on matrices; never on norms, biases and embeddings."
    )
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        1.0, description="Gradients are clipped to this norm."
    )
    label_smoothing: Share = Field(0.1, description="Share of probability spread over the vocabulary.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the matrix products; auto measures both once and keeps the faster."
    )
    ema_decay: Share = Field(
        0.0, description="Validate and keep an exponential moving average of the weights with this decay; 0 = off."
    )
    validate_every: Positive | None = Field(None, description="Updates between validations; default: an epoch.")
    validate_after: Annotated[int, Field(ge=0)] = Field(0, description="No validation before this update.")
    save_every: Positive = Field(200, description="Updates between saves of last/; a validation saves too.")
    log_every: Positive = Field(50, description="Updates between log lines.")
    metric: Literal["loss", "bleu", "chrf", "wer", "ser"] = Field(
        "bleu",
        description="What decides about best/: loss, BLEU, chrF, error rate of space-separated tokens, of whole lines.",
    )
    validation_beam_size: Positive = Field(1, description="Beam size of the text decoded to validate.")
    patience: Positive | None = Field(None, description="Stop after this many validations without a new best.")
    threads: Positive | None = Field(None, description="CPU threads; default: all cores.")
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda|cuda:[0-9]+|mps)$")] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps."
    )

    @model_validator(mode="before")
    @classmethod
    def _must_end(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("max_updates") is None and values.get("max_epochs") is None:
            return {**values, "max_epochs": 20}
        return values


class DecodingConfig(Settings):
    """How to generate."""

    beam_size: Annotated[int, Field(ge=1, le=1024)] = Field(5, description="Beam width; 1 is greedy search.")
    n_best: Positive = Field(1, description="Hypotheses returned for a sentence; at most beam_size.")
    length_penalty: Literal["average", "power", "gnmt", "none"] = Field(
        "average",
        description="Score = Σ log p divided by: length; length^length_alpha; ((5 + length)/6)^length_alpha; 1.",
    )
    length_alpha: Annotated[float, Field(ge=0.0, le=10.0)] = Field(1.0, description="Exponent of power and gnmt.")
    max_length: Positive | None = Field(
        None, description="Most tokens to generate, </s> included; default: from the two settings below."
    )
    max_length_ratio: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        2.0, description="Without max_length, the limit is ⌈ratio × source tokens, </s> included⌉ + max_length_extra."
    )
    max_length_extra: Annotated[int, Field(ge=1)] = Field(10, description="See max_length_ratio.")
    batch_size: Positive = Field(64, description="Sentences decoded together; the output does not depend on it.")

    @model_validator(mode="after")
    def _consistent(self) -> DecodingConfig:
        if self.n_best > self.beam_size:
            raise ValueError(
                f"n_best ({self.n_best}) must not exceed beam_size ({self.beam_size}): raise beam_size or lower n_best"
            )
        return self

    def limit(self, source_length: int) -> int:
        """Most tokens to generate, </s> included, for a source of this many tokens."""
        if self.max_length is not None:
            return self.max_length
        return -int(-self.max_length_ratio * source_length // 1) + self.max_length_extra


class Config(Settings):
    """A whole training run."""

    output: FileName | None = Field(None, description="The run folder.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="Seed of everything random.")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    tokenizer: TokenizerConfig = Field(default_factory=lambda: TokenizerConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    decoding: DecodingConfig = Field(default_factory=lambda: DecodingConfig())

    @model_validator(mode="before")
    @classmethod
    def _empty_groups(cls, values: Any) -> Any:
        # `model:` with nothing (or only comments) below it is a null in YAML, and means the defaults.
        if isinstance(values, Mapping):
            return {key: value for key, value in values.items() if value is not None or key == "output"}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.model.tied_embeddings == "three" and not self.tokenizer.is_joint:
            raise ValueError(
                "model.tied_embeddings: three needs one vocabulary for both sides: "
                "set model.tied_embeddings to two, or tokenizer.joint to true with one kind"
            )
        if self.model.positions == "learned":
            longest = max(self.data.max_source_tokens, self.data.max_target_tokens) + 1
            if longest > self.model.max_positions:
                raise ValueError(
                    f"model.max_positions ({self.model.max_positions}) is shorter than the longest training sequence "
                    f"({longest} with </s>): raise it, or lower data.max_source_tokens and data.max_target_tokens"
                )
        return self


def load_config(
    path: str | Path | None = None, overrides: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> Config:
    """Read a config from YAML, then apply ``key.sub=value`` overrides (values are YAML too).

    Args:
        path: a YAML file; ``None`` starts from the defaults.
        overrides: e.g. ``["model.hidden_size=512", "data.dir=corpora"]``; later ones win.
        base: nested settings that come before the overrides and after the file (flags of the command line).

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest known one), a value out of range.
    """
    values = merged({} if path is None else read_yaml(Path(path)), base or {})
    for override in overrides:
        values = merged(values, read_override(override))
    return parse_config(values, where="" if path is None else f"{path}: ")


def parse_config(values: Mapping[str, Any], where: str = "") -> Config:
    """Validate nested settings; ``where`` goes in front of the message of a :class:`ConfigError`."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(where + explain(error, Config)) from None


def dump_config(config: Settings) -> str:
    """The config as YAML with every setting resolved, in the order of the classes above."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
