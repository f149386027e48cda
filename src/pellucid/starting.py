"""What a training run starts from, other than chance: a trained model, or a BERT encoder for the source side.

Such a model decides settings: its architecture, its tokenizers. What a config says about them must agree, and what it
leaves out is taken from there. Knows nothing of text, or of how a model is trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.bundled import is_bundled_name
from pellucid.config import Config, ModelConfig, TokenizerConfig, load_config, parse_config
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.data.word_tokenizer import WordTokenizer
from pellucid.errors import ConfigError
from pellucid.interop.huggingface.bert import load_encoder, load_source_tokenizer
from pellucid.interop.huggingface.hub import is_hub_name
from pellucid.loading import load, model_sha256
from pellucid.model.adapter_config import AdapterConfig
from pellucid.model.lora import adapted_layers
from pellucid.model.transformer import EncoderDecoder
from pellucid.settings import Settings
from pellucid.translator import Translator

__all__ = ["Start", "adapter_for", "find_start"]

_DROPOUTS = {name for name in ModelConfig.model_fields if name.endswith("dropout")}
_OF_DECODERS = {"decoder_layers", "tied_embeddings", "output_bias", "scale_output"}
_LEARNING = {"model", "byte_fallback", "character_coverage", "normalization", "sampling_alpha"}
"""Settings of learning a vocabulary, which has been done, and of sampling, which a run decides for itself."""
_NEAREST = {"sentencepiece-table": "sentencepiece", "tokenizer-json": "sentencepiece", "bytes": "characters"}
"""Of the kinds that a config can name; see :func:`_kind`."""
_SMALLEST = 16
"""The smallest ``tokenizer.vocab_size`` that a config can state; a vocabulary may have fewer pieces than it allows."""


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        config: with all that the model decides.
        tokenizers: of both sides, of the source alone, or None: they are learned.
        weights: by the names of parameters; the others begin by chance.
        report: what a person should know, as sentences.
        tags: those that the model knows.
        found: the whole of the trained model, if it is one.
    """

    config: Config
    tokenizers: tuple[Tokenizer, Tokenizer | None] | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    found: Translator | None = None

    @torch.no_grad()
    def fill(self, model: EncoderDecoder) -> None:
        """Give a model of :attr:`config` the weights there are."""
        parameters = dict(model.named_parameters())
        for name, tensor in self.weights.items():
            parameters[name].copy_(tensor)


def find_start(config: Config, stored: Path | None = None) -> Start:
    """What ``config`` asks to start from.

    Args:
        config: as it was given.
        stored: the config of a run that goes on: it has what the model decided, so that the model is not needed again.

    Raises:
        ConfigError: a setting contradicts the model, or it is of a kind that cannot be trained on.
        ModelFolderError: it cannot be loaded.
    """
    if config.training.init_from is None and config.training.encoder_from is None:
        return Start(config)
    if stored is not None:
        return Start(_taken_over(config, load_config(stored)))
    return _from_model(config) if config.training.init_from is not None else _from_encoder(config)


def _from_model(config: Config) -> Start:
    where = str(config.training.init_from)
    if config.training.lora is not None and config.output is not None:
        _refuse_own_base(where, config.output)
    found = load(where, "cpu").with_tag("")
    if not isinstance(found.model, EncoderDecoder):
        raise ConfigError(f"training.init_from = {where}: a decoder alone; training is of encoder-decoders")
    if "awaits_language" in found.document:
        raise ConfigError(
            f"training.init_from = {where}: the model knows many languages: make a model folder for two of them "
            "(pellucid convert --source-language --target-language), and start from that"
        )
    source, target, rules = found.source_tokenizer, found.target_tokenizer, found.rules
    model = _agreed(config.model, found.model.config, _DROPOUTS, "model", where)
    is_joint = source is target or found.model.config.one_vocabulary
    tokenizer = _tokenizer_settings(config.tokenizer, source, target, rules, is_joint, where)
    given = {name: getattr(config.decoding, name) for name in config.decoding.model_fields_set}
    decoding = found.decoding.replaced({"tag": None, **given})  # which tag is the usual one, the new text decides
    groups = {"model": model, "tokenizer": tokenizer, "decoding": decoding}
    whole = _validated(config.model_copy(update=groups), where)
    report = (f"start: weights, tokenizers and architecture of {where}",)
    return Start(whole, (source, target), dict(found.model.named_parameters()), report, rules.tags, found)


def _refuse_own_base(where: str, output: str) -> None:
    """A run of adapters must not stand where its base is: it would take its place."""
    base, run = Path(where).resolve(), Path(output).resolve()
    if run in (base, *base.parents):
        raise ConfigError(
            f"output = {output}: training.init_from = {where} is in this folder, and adapters are of no use without "
            "the model they were trained beside: choose another --output"
        )


def adapter_for(start: Start, model: EncoderDecoder) -> AdapterConfig:
    """What a run's model folders say of their adapters.

    Args:
        start: of a config with ``training.lora``; with the base.
        model: with adapters in place.
    """
    lora, where = start.config.training.lora, str(start.config.training.init_from)
    assert lora is not None and start.found is not None
    is_name = is_bundled_name(where) or is_hub_name(Path(where))
    base = where if is_name else os.path.abspath(where)
    return AdapterConfig(base, model_sha256(start.found), lora.rank, lora.alpha, adapted_layers(model))


def _from_encoder(config: Config) -> Start:
    where = str(config.training.encoder_from)
    encoder, document = load_encoder(Path(where))
    tokenizer = load_source_tokenizer(Path(where), document, encoder.source_vocab_size)
    given = config.model.model_fields_set
    if "tied_embeddings" in given and config.model.one_vocabulary:
        raise ConfigError(
            f"model.tied_embeddings = {config.model.tied_embeddings}: with training.encoder_from the source has BERT's "
            "vocabulary and the target its own: set it to two or none"
        )
    if "joint" in config.tokenizer.model_fields_set and config.tokenizer.joint:
        raise ConfigError(
            "tokenizer.joint = True: with training.encoder_from the source has BERT's vocabulary and the target its "
            "own: leave it away"
        )
    found = encoder.config.model_copy(update={"decoder_layers": config.model.decoder_layers, "tied_embeddings": "two"})
    model = _agreed(config.model, found, _DROPOUTS | _OF_DECODERS, "model", where)
    groups = {"model": model, "tokenizer": config.tokenizer.model_copy(update={"joint": False})}
    weights: dict[str, Tensor] = {
        name: tensor for name, tensor in encoder.named_parameters() if name != "token_types.weight"
    }
    # Every source is of type 0, whose vector is added at each position.
    table = "encoder.embedder.positions.table"
    weights[table] = weights[table] + encoder.token_types.weight[0]
    report = (f"start: encoder and source tokenizer of {where}; the decoder is new",)
    return Start(_validated(config.model_copy(update=groups), where), (tokenizer, None), weights, report)


def _taken_over(config: Config, stored: Config) -> Config:
    """A config with what was decided when its run began; what it states itself is compared as ever."""
    groups: dict[str, Settings] = {}
    for name in ("model", "tokenizer", "decoding"):
        given: Settings = getattr(config, name)
        said = {setting: getattr(given, setting) for setting in given.model_fields_set - {"preset"}}
        groups[name] = getattr(stored, name).model_copy(update=said)
    return config.model_copy(update=groups)


# -- agreement


def _agreed(given: ModelConfig, found: ModelConfig, free: Set[str], group: str, where: str) -> ModelConfig:
    """The found settings with those given ones that a run may choose; all other given ones are the same."""
    said, there = _resolved(given), _resolved(found)
    names = [name for name in ModelConfig.model_fields if name in given.model_fields_set and name != "preset"]
    wrong = [
        f"{group}.{name} = {said[name]} (there {there[name]})"
        for name in names
        if name not in free and said[name] != there[name]
    ]
    if wrong:
        raise ConfigError(_contradiction(where, wrong))
    return found.model_copy(update={name: getattr(given, name) for name in names if name in free})


def _resolved(config: ModelConfig) -> dict[str, Any]:
    """Settings with what they mean where they are left open."""
    epsilon = {"layernorm": 1e-5, "rmsnorm": 1e-6}[config.norm]
    return {
        **config.model_dump(),
        "head_dim": config.head_size,
        "num_kv_heads": config.self_kv_heads,
        "cross_num_kv_heads": config.cross_kv_heads,
        "norm_epsilon": epsilon if config.norm_epsilon is None else config.norm_epsilon,
    }


def _tokenizer_settings(
    given: TokenizerConfig, source: Tokenizer, target: Tokenizer, rules: TextRules, is_joint: bool, where: str
) -> TokenizerConfig:
    """The given settings, and in the place of those left out what is true of the tokenizers that are there."""
    kinds = _kind(source), _kind(target)
    there: dict[str, Any] = {
        "kind": kinds[0],
        "target_kind": kinds[1],
        "joint": is_joint,
        "vocab_size": max(source.vocab_size, target.vocab_size),
        "source_script": rules.source_script,
        "target_script": rules.target_script,
        "placeholders": tuple(rules.placeholders),
    }
    said = {name: getattr(given, name) for name in given.model_fields_set - _LEARNING}
    if said.get("target_kind", "") is None:
        said["target_kind"] = given.kind
    if said.get("vocab_size", 0) >= there["vocab_size"]:  # fewer pieces than were allowed
        del said["vocab_size"]
    if wrong := [
        f"tokenizer.{name} = {said[name]} (there {there[name]})" for name in said if said[name] != there[name]
    ]:
        raise ConfigError(_contradiction(where, wrong))
    if given.sampling_alpha and {source.kind, target.kind} != {"sentencepiece"}:
        raise ConfigError(
            f"tokenizer.sampling_alpha = {given.sampling_alpha}: the tokenizers of {where} have no list of best splits "
            "to draw from: leave it away"
        )
    known = there | {
        "target_kind": None if kinds[0] == kinds[1] else kinds[1],
        "vocab_size": max(there["vocab_size"], _SMALLEST),
    }
    return given.model_copy(update={name: known[name] for name in known if name not in given.model_fields_set})


def _kind(tokenizer: Tokenizer) -> str:
    """The kind by the names that a config has for them: all subwords are ``sentencepiece``, bytes ``characters``."""
    if isinstance(tokenizer, WordTokenizer):
        words = "symbols" if tokenizer.codes is None else "sentencepiece"
        return "characters" if tokenizer.level == "characters" else words
    return _NEAREST.get(tokenizer.kind, tokenizer.kind)


def _contradiction(where: str, wrong: list[str]) -> str:
    return f"settings contradict the model to start from, {where}: {'; '.join(wrong)}: leave them away, or change them"


def _validated(config: Config, where: str) -> Config:
    """The config as one that is stated in full, so that settings of different groups are compared."""
    return parse_config(config.model_dump(mode="json"), f"starting from {where}: ")
