"""Every setting, stated once: its name, type, default, range and meaning.

The command line, the YAML files, the resolved config in a run folder and the pages in ``docs/`` are all made from these
classes. How a group of settings is read and refused is in settings.py. This file imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pellucid.decoding_config import DecodingConfig
from pellucid.errors import ConfigError
from pellucid.settings import Settings, explain, merged, read_override, read_yaml
from pellucid.tags import Tag, check_tags

__all__ = [
    "Config",
    "CorpusConfig",
    "DataConfig",
    "DecodingConfig",
    "LoraConfig",
    "ModelConfig",
    "NamedCorpusConfig",
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
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Names of corpora: parts of dotted settings, of metrics and of file names."""


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
    tag: Tag | None = Field(
        None,
        description="Piece put in front of every source, such as <talks> or <2de>: a domain, a target language, an "
        "origin. It is a token of its own; a vocabulary that is there already must have it.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> CorpusConfig:
        two = (self.source is not None) + (self.target is not None)
        if (two == 1) or (two == 2) == (self.path is not None):
            raise ValueError("give either source and target (two aligned files) or path (one file with both sides)")
        return self


class NamedCorpusConfig(CorpusConfig):
    """One of several corpora to train on: a corpus as above, with a share in the mixture and a development set."""

    weight: Annotated[float, Field(gt=0.0, le=1e6)] = Field(
        1.0, description="Factor on the share that its size gives it in an epoch."
    )
    dev: CorpusConfig | None = Field(
        None, description="Its development set; it has the corpus's tag where it names none of its own."
    )

    @model_validator(mode="after")
    def _dev_is_tagged(self) -> NamedCorpusConfig:
        if self.dev is not None and self.tag is not None and self.dev.tag is None:
            object.__setattr__(self, "dev", self.dev.model_copy(update={"tag": self.tag}))
        return self


class DataConfig(Settings):
    """What to train on, what to validate on, and what to do with lines that should not be there."""

    dir: FileName | None = Field(None, description="Folder that the relative paths below start from.")
    train: CorpusConfig | None = Field(None, description="The corpus to train on.")
    corpora: dict[str, NamedCorpusConfig] = Field(
        {}, description="In the place of `train`: several corpora by name, mixed in every epoch."
    )
    temperature: Annotated[float, Field(ge=1.0, le=1000.0)] = Field(
        1.0,
        description="Share of a corpus in an epoch ∝ weight · pairs^(1/temperature) (Arivazhagan et al. 2019): 1 as "
        "large as they are, 5 is usual for many languages, 1000 is all alike.",
    )
    dev: CorpusConfig | None = Field(
        None,
        description="The corpus to validate on; without one, `holdout` pairs of `train`, or of each of `corpora`, are "
        "set aside.",
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
    drop_final_punctuation: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0,
        description="Probability that training sees a source without the marks that end its last sentence (in every "
        "script), drawn anew in each epoch; the target stays.",
    )

    @model_validator(mode="after")
    def _one_kind_of_training_text(self) -> DataConfig:
        if self.train is not None and self.corpora:
            raise ValueError("train is one corpus and corpora are several: give one of the two")
        if self.temperature != 1.0 and len(self.corpora) < 2:
            raise ValueError("temperature has no effect without several corpora: give corpora, or take it away")
        _check_names(self.corpora)
        own = [name for name, corpus in self.corpora.items() if corpus.dev is not None]
        if own and self.dev is not None:
            raise ValueError(
                f"dev is the development set of all, and corpora.{own[0]}.dev that of one corpus: give one of the two"
            )
        check_tags(self.tags)
        return self

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of all corpora, each once, in order."""
        corpora = [self.train, *self.corpora.values(), self.dev, *(corpus.dev for corpus in self.corpora.values())]
        corpora.append(self.test)
        return tuple(dict.fromkeys(corpus.tag for corpus in corpora if corpus is not None and corpus.tag))

    @property
    def dev_names(self) -> tuple[str, ...]:
        """The corpora that have a development set each; empty where there is one for all."""
        if self.dev is not None:
            return ()
        own = tuple(name for name, corpus in self.corpora.items() if corpus.dev is not None)
        return own or tuple(self.corpora)


def _check_names(corpora: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in corpora:
        if not _NAME.fullmatch(name):
            raise ValueError(f"corpora: a corpus cannot be called {name!r}: use letters, digits, - and _")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"corpora: {other} and {name} differ in case alone: rename one")


class TokenizerConfig(Settings):
    """How text becomes tokens."""

    kind: Literal["sentencepiece", "characters", "letters", "symbols"] = Field(
        "sentencepiece",
        description="Subwords learned from the text; single characters; letters (characters taken apart by Unicode's "
        "NFD: Hangul syllables into their letters, accents off theirs); or space-separated symbols.",
    )
    target_kind: Literal["sentencepiece", "characters", "letters", "symbols"] | None = Field(
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
        "nmt_nfkc",
        description="Unicode normalisation that SentencePiece applies first, on both sides. nfkc: full-width forms, "
        "ligatures and the like become plain letters (Ａ１ﬁ½ is A1fi1⁄2, … is ...), so that a model cannot write them; "
        "nmt_: also removes control characters and makes all white space a space; _cf: lower case. All of these join "
        "spaces. identity changes nothing: with byte_fallback every text comes back as it was, but for ▁ (U+2581).",
    )
    source_script: Literal["none", "simplified", "traditional"] = Field(
        "none",
        description="Convert Chinese on the source side to one script by OpenCC's tables, in training and in every use "
        "of the model, so that both scripts are the same to it; traditional needs pip install 'pellucid[chinese]'.",
    )
    target_script: Literal["none", "simplified", "traditional"] = Field(
        "none", description="The same for the target side: what the model learns to write; references stay as they are."
    )
    placeholders: tuple[Literal["url", "email", "number"], ...] = Field(
        (),
        description="Parts of the source to carry over as they are: each becomes a piece of its own in front of the "
        "model (at most 5 of a kind), and the original is put back behind it. In training only where both sides "
        "have the part, letter by letter; in use everywhere. One that the model leaves out is not added.",
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
        if self.placeholders and (self.kind, self.target_kind or self.kind) != ("sentencepiece", "sentencepiece"):
            raise ValueError("placeholders need kind: sentencepiece on both sides (other kinds cannot reserve pieces)")
        if len(set(self.placeholders)) < len(self.placeholders):
            raise ValueError(f"placeholders names a kind twice: {', '.join(self.placeholders)}")
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
    num_heads: Positive = Field(4, description="Query heads, H.")
    head_dim: Positive | None = Field(None, description="Size of one head, D; default: hidden_size / num_heads.")
    num_kv_heads: Positive | None = Field(
        None, description="Key/value heads of self-attention, G: num_heads (default), a divisor of it (grouped), 1."
    )
    cross_num_kv_heads: Positive | None = Field(
        None, description="Key/value heads of cross-attention; default: num_kv_heads."
    )
    ff_size: Positive = Field(1024, description="Inner width of the feed-forward blocks, F.")
    activation: Literal["relu", "gelu", "gelu_tanh", "silu", "reglu", "geglu", "geglu_tanh", "swiglu"] = Field(
        "relu",
        description="Feed-forward activation; those in -glu are gated (Shazeer 2020), _tanh is GELU's approximation.",
    )
    norm: Literal["layernorm", "rmsnorm"] = Field("layernorm", description="Normalisation.")
    norm_epsilon: Annotated[float, Field(gt=0.0, le=0.1)] | None = Field(
        None, description="Added to the variance in norms; default: 1e-5 in layernorm, 1e-6 in rmsnorm."
    )
    norm_placement: Literal["pre", "post"] = Field(
        "pre", description="Before each sublayer (with one more norm at the end of a stack), or after the residual sum."
    )
    positions: Literal["sinusoidal", "learned", "rotary", "relative", "none"] = Field(
        "sinusoidal",
        description="How order enters: added (sinusoidal, learned), by rotating queries and keys, as a learned bias on "
        "attention scores by distance (relative, as in T5), or not.",
    )
    sinusoidal_layout: Literal["interleaved", "halves", "fairseq"] = Field(
        "interleaved",
        description="Sine and cosine in turn (2017, section 3.5); all sines, then all cosines (Marian); "
        "halves with a slightly other row of frequencies, ending at exactly 1/10000 (fairseq, M2M-100).",
    )
    first_position: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Number of the first position in sinusoidal positions; fairseq's models begin at 2."
    )
    rotary_base: Annotated[float, Field(ge=100.0, le=1e9)] = Field(
        10000.0, description="Rotary positions turn the pair i by position / rotary_base^(2i/D) (Llama 3: 500000)."
    )
    relative_buckets: Annotated[int, Field(ge=4, le=65536, multiple_of=2)] = Field(
        32, description="Distances told apart by relative positions; the encoder uses half of them for each direction."
    )
    relative_max_distance: Positive = Field(
        128, description="Distance from which on relative positions tell nothing apart."
    )
    max_positions: Positive = Field(512, description="Length of a learned position table; nothing else has a limit.")
    tied_embeddings: Literal["three", "two", "inputs", "none"] = Field(
        "three", description="Share source, target and output matrix; target and output; source and target; or nothing."
    )
    scale_embeddings: bool = Field(True, description="Multiply embeddings by √hidden_size (2017, section 3.4).")
    embedding_norm: bool = Field(False, description="One more norm, on embeddings with positions (BART).")
    scale_attention: bool = Field(True, description="Divide query·key by √D (2017, section 3.2.1); T5 does not.")
    scale_output: bool = Field(
        False, description="Divide the decoder's states by √hidden_size before the output matrix (T5)."
    )
    output_bias: bool = Field(False, description="A bias on the logits (Marian).")
    bias: bool = Field(True, description="Bias terms in the linear layers.")
    dropout: Share = Field(0.1, description="On embeddings and on each sublayer's output (2017, section 5.4).")
    attention_dropout: Share = Field(0.0, description="On attention weights.")
    ff_dropout: Share = Field(0.0, description="On the feed-forward block's inner activations.")
    word_dropout: Share = Field(
        0.0, description="On whole tokens' embeddings, of both sides; their positions stay (Gal & Ghahramani 2016)."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, Mapping) else None
        return {**PRESETS[preset], **values} if isinstance(preset, str) and preset in PRESETS else values

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of num_heads ({self.num_heads})")
        for name in ("num_kv_heads", "cross_num_kv_heads"):
            heads = getattr(self, name)
            if heads is not None and self.num_heads % heads:
                raise ValueError(f"{name} ({heads}) must divide num_heads ({self.num_heads})")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_size}")
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"sinusoidal positions need an even hidden_size, not {self.hidden_size}")
        if self.positions == "sinusoidal" and self.sinusoidal_layout == "fairseq" and self.hidden_size < 4:
            raise ValueError(f"sinusoidal_layout: fairseq needs a hidden_size of at least 4, not {self.hidden_size}")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance ({self.relative_max_distance}) must exceed half of relative_buckets "
                f"({self.relative_buckets}): nearer distances have a bucket each"
            )
        return self

    @property
    def head_size(self) -> int:
        """Size of one head, D, resolved."""
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward blocks have a gate."""
        return "glu" in self.activation

    @property
    def one_vocabulary(self) -> bool:
        """Whether source and target share a matrix, and so must share a vocabulary."""
        return self.tied_embeddings in ("three", "inputs")

    @property
    def self_kv_heads(self) -> int:
        """Key/value heads of self-attention, resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def cross_kv_heads(self) -> int:
        """Key/value heads of cross-attention, resolved."""
        return self.cross_num_kv_heads or self.self_kv_heads


class LoraConfig(Settings):
    """Low-rank adaptation (Hu et al. 2021): W + alpha/rank · B·A in chosen linear layers; only A and B are trained."""

    rank: Positive = Field(8, description="Rows of A and columns of B.")
    alpha: Annotated[float, Field(gt=0.0)] = Field(
        16.0, description="What A and B add counts alpha / rank times, so that another rank needs no other rate."
    )
    dropout: Share = Field(0.0, description="On what goes into A.")
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("*.query", "*.value"),
        description="Shell patterns for the linear layers to adapt, by their names (`pellucid info MODEL --parameters` "
        "shows those, with .weight): query and value of every attention, as in the paper.",
    )


class TrainingConfig(Settings):
    """How to train."""

    init_from: FileName | None = Field(
        None,
        description="A trained model to start from: anything that `translate` loads. It brings weights, tokenizers, "
        "architecture and decoding settings; settings that are given and contradict it are refused, but for dropouts.",
    )
    encoder_from: FileName | None = Field(
        None,
        description="Folder of a BERT checkpoint whose encoder and tokenizer the source side starts from; the decoder "
        "is new and has the encoder's sizes.",
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="Shell patterns for parameters that stay as they are, by the names that `pellucid info MODEL "
        "--parameters` shows: encoder.*, *.norm.*; a matrix that is tied is frozen by any of its names.",
    )
    lora: LoraConfig | None = Field(
        None,
        description="Train low-rank adapters of the model that `init_from` names, and nothing else; the run holds the "
        "adapters alone. {} for the defaults.",
    )
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
    r_drop: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        0.0,
        description="R-Drop (Liang et al. 2021): each batch is read twice with other dropout, and both readings are "
        "drawn together with this weight α; an update takes twice as long. The paper has 5 for translation; 0 = off.",
    )
    scheduled_sampling: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0,
        description="Scheduled sampling (Bengio et al. 2015), in two passes (Mihaylova & Martins 2019): the share of "
        "target inputs that are the model's own predictions instead of gold at the end of the schedule; 0 = off.",
    )
    scheduled_sampling_schedule: Literal["linear", "inverse_sigmoid", "constant"] = Field(
        "linear",
        description="How that share rises from 0 to the last update: along a line, along a sigmoid with its middle "
        "half-way (Bengio's inverse sigmoid, seen from the gold side); or all of it at once.",
    )
    scheduled_sampling_start: Annotated[int, Field(ge=0)] = Field(
        0, description="Scheduled sampling begins behind this update; until then all target inputs are gold."
    )
    scheduled_sampling_choice: Literal["argmax", "sample"] = Field(
        "argmax", description="The model's own prediction: its most probable token, or one drawn from its distribution."
    )
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
    metric_corpus: str | None = Field(
        None,
        description="With several development sets (data.corpora): the corpus whose value decides; default: the mean "
        "of all.",
    )
    validation_beam_size: Positive = Field(1, description="Beam size of the text decoded to validate.")
    patience: Positive | None = Field(None, description="Stop after this many validations without a new best.")
    checks: Literal["refuse", "warn", "skip"] = Field(
        "refuse",
        description="The quick checks of `pellucid doctor` before the first update: refuse to begin where something is "
        "wrong beyond doubt and warn of the rest, only warn, or none.",
    )
    threads: Positive | None = Field(
        None, description="CPU threads of each process; default: all cores, divided by the processes of a machine."
    )
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda|cuda:[0-9]+|mps)$")] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps."
    )

    @model_validator(mode="before")
    @classmethod
    def _must_end(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("max_updates") is None and values.get("max_epochs") is None:
            return {**values, "max_epochs": 20}
        return values

    @model_validator(mode="after")
    def _one_start(self) -> TrainingConfig:
        if self.init_from is not None and self.encoder_from is not None:
            raise ValueError("init_from brings an encoder, too: give init_from or encoder_from, not both")
        if self.lora is not None and self.init_from is None:
            raise ValueError("lora adapts a trained model: say which by init_from")
        if self.lora is not None and self.freeze:
            raise ValueError("with lora all but the adapters is frozen: leave freeze away")
        return self


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
        if self.model.one_vocabulary and not self.tokenizer.is_joint:
            raise ValueError(
                f"model.tied_embeddings: {self.model.tied_embeddings} needs one vocabulary for both sides: "
                "set model.tied_embeddings to two, or tokenizer.joint to true with one kind"
            )
        chosen, names = self.training.metric_corpus, self.data.dev_names
        if chosen is not None and chosen not in names:
            has = f"those with a development set are {', '.join(names)}" if names else "there is one development set"
            raise ValueError(f"training.metric_corpus = {chosen!r}: {has}: name one of data.corpora, or take it away")
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
