"""A trained model from a folder: of our own, of Hugging Face, of other toolkits.

Knows who reads which kind of folder; what a model can do is in ``translator.py``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from pellucid.bundled import bundled_folder, is_bundled_name
from pellucid.config import DecodingConfig
from pellucid.data.tokenizer import load_rules, load_tokenizers
from pellucid.errors import ConfigError, MissingExtraError, ModelFolderError, PellucidError
from pellucid.language_model import LanguageModel
from pellucid.model.adapter_config import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    AdapterConfig,
    is_adapter_folder,
    read_adapter_config,
)
from pellucid.model.alone import DecoderOnly
from pellucid.model.lora import merge, read_adapter, weights_sha256
from pellucid.model.storage import is_model_folder, load_any_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.model_folder import find_model_folder
from pellucid.settings import explain
from pellucid.translator import TOKENIZER_FOLDER, Translator

__all__ = ["base_weights", "load", "model_sha256", "with_languages"]


def load(
    path: str | Path | None = None,
    device: str = "auto",
    *,
    source_language: str | None = None,
    target_language: str | None = None,
) -> Translator:
    """Load a trained model.

    Args:
        path: a model folder; a run folder: then its ``best/`` (``last/`` before the first validation); the folder of a
            Hugging Face checkpoint, or its name on the hub; the folder or the file of a checkpoint of fairseq,
            OpenNMT-py or JoeyNMT. Where a folder holds adapters, they are merged into the model they were trained
            beside. Default: the model that comes with pellucid, from Chinese to English; it is also called ``"zh-en"``
            where nothing of that name is in the current folder.
        device: auto, cpu, cuda, cuda:N or mps; meta, to look at a model without its numbers, which are not read where
            it is of our own.
        source_language, target_language: codes, for a checkpoint that knows many languages.

    Raises:
        ModelFolderError: not a model folder, incomplete, or its parts do not fit each other.
        ConfigError: no such device here; a language is needed, not known, or given to a model of our own.
        MissingExtraError: the checkpoint needs a library that is not installed.
    """
    from pellucid.interop.huggingface.checkpoint import is_checkpoint
    from pellucid.interop.huggingface.hub import fetch, is_hub_name
    from pellucid.interop.toolkits import find_toolkit
    from pellucid.training.runtime import resolve_device

    place = resolve_device(device)
    elsewhere = torch.device("cpu") if place.type == "meta" else place
    if path is None or is_bundled_name(path):
        path = bundled_folder()
    if not is_model_folder(Path(path)) and (file := find_toolkit(Path(path))) is not None:
        return _load_toolkit(file, elsewhere, source_language, target_language)
    folder = fetch(Path(path).as_posix()) if is_hub_name(Path(path)) else find_model_folder(Path(path))
    if is_checkpoint(folder):
        return _load_checkpoint(folder, elsewhere, source_language, target_language)
    _refuse_languages(folder, source_language, target_language)
    if is_adapter_folder(folder):
        model, document = _load_adapted(folder, place)
    else:
        model, document = load_any_model(folder, place)
    source, target = load_tokenizers(folder / TOKENIZER_FOLDER)
    if isinstance(model, DecoderOnly):
        return LanguageModel(model, target, DecodingConfig.model_validate(document["decoding"]), folder, document)
    for side, size, tokenizer in (
        ("source", model.source_vocab_size, source),
        ("target", model.target_vocab_size, target),
    ):
        if size != tokenizer.vocab_size:
            raise ModelFolderError(
                f"{folder}: the {side} tokenizer has {tokenizer.vocab_size} tokens and the model {size}: "
                "they are not of the same training run"
            )
    try:
        decoding = DecodingConfig.model_validate(document.get("decoding", {}))
    except ValidationError as error:
        raise ModelFolderError(f"{folder}/config.json: {explain(error, DecodingConfig)}") from None
    return Translator(model, source, target, decoding, folder, document, load_rules(folder / TOKENIZER_FOLDER))


def _load_adapted(folder: Path, device: torch.device) -> tuple[EncoderDecoder | DecoderOnly, dict[str, Any]]:
    """The model that base and adapters are together; ``adapter`` in its document says which they are."""
    adapter = read_adapter_config(folder)
    if device.type == "meta":
        weights: dict[str, Tensor] = dict(_base(folder, adapter, "meta").model.named_parameters())
    else:
        weights = base_weights(folder)
        weights = merge(weights, read_adapter(folder, adapter, weights), adapter)
    model, document = load_any_model(folder, device, weights)
    return model, {**document, "adapter": asdict(adapter)}


def base_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that the adapters of a folder were trained beside, by name.

    Raises:
        ModelFolderError: the base is gone, cannot be loaded, or has other weights than it had.
        MissingExtraError: it needs a library that is not installed.
    """
    adapter = read_adapter_config(folder)
    base = _base(folder, adapter, "cpu")
    if (found := model_sha256(base)) != adapter.base_sha256:
        raise ModelFolderError(
            f"{folder}: an adapter of {adapter.base}, whose weights have changed since: SHA-256 {found[:12]}…, and "
            f"{adapter.base_sha256[:12]}… when the adapter was trained: put the old model back, or write where it is "
            f"into {folder / ADAPTER_CONFIG} as base"
        )
    return {name: parameter.detach() for name, parameter in base.model.named_parameters()}


def model_sha256(found: Translator) -> str:
    """SHA-256 of a loaded model's numbers.

    Of adapters and what they were trained beside: of the adapters, and of the base's SHA-256. Their sum is rounded as
    the machine's matrix product happens to do it, so that its bits say nothing.
    """
    if (adapter := found.document.get("adapter")) is None:
        return weights_sha256(dict(found.model.named_parameters()))
    assert found.folder is not None
    about = {name: value for name, value in adapter.items() if name != "base"}
    about["adapters_sha256"] = weights_sha256(load_file(found.folder / ADAPTER_FILE))
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _base(folder: Path, adapter: AdapterConfig, device: str) -> Translator:
    """The model that adapters were trained beside; whether it still is what it was is not looked at.

    Raises:
        ModelFolderError: it is gone, or cannot be loaded.
        MissingExtraError: it needs a library that is not installed.
    """
    place = folder / ADAPTER_CONFIG
    itself = folder.resolve()
    if Path(adapter.base).resolve() in (itself, itself.parent):
        raise ModelFolderError(f"{place}: names this folder itself as the base of its adapter: write there where it is")
    try:
        return load(adapter.base, device)
    except MissingExtraError:
        raise
    except PellucidError as error:
        raise ModelFolderError(
            f"{folder}: an adapter of {adapter.base}, and that cannot be loaded ({error}): put it back, or write its "
            f"new place into {place} as base"
        ) from None


def _load_checkpoint(
    folder: Path, device: torch.device, source_language: str | None, target_language: str | None
) -> Translator:
    from pellucid.interop.huggingface.checkpoint import load_checkpoint
    from pellucid.interop.huggingface.decoders import DECODERS, load_decoder
    from pellucid.interop.huggingface.files import CONFIG_FILE, read_json
    from pellucid.interop.huggingface.tokenizers import Languages

    if read_json(folder / CONFIG_FILE).get("model_type") in DECODERS:
        _refuse_languages(folder, source_language, target_language)
        alone = load_decoder(folder, device)
        origin = {"huggingface": alone.document, "unmapped": alone.unmapped}
        return LanguageModel(alone.model, alone.tokenizer, alone.decoding, folder, origin)
    found = load_checkpoint(folder, device, Languages(source_language, target_language))
    document: dict[str, Any] = {"huggingface": found.document, "unmapped": found.unmapped}
    if found.awaits is not None:
        document["awaits_language"] = found.awaits
    return Translator(found.model, found.source_tokenizer, found.target_tokenizer, found.decoding, folder, document)


def with_languages(translator: Translator, source: str | None, target: str | None) -> Translator:
    """The model of a checkpoint, which is not loaded again, with its tokenizers and settings for these languages.

    Raises:
        ConfigError: a language that the model does not know, or a model whose languages cannot be chosen.
    """
    from pellucid.interop.huggingface.folder import is_checkpoint
    from pellucid.interop.huggingface.surroundings import read_surroundings
    from pellucid.interop.huggingface.tokenizers import Languages

    folder, model = translator.folder, translator.model
    if folder is None or not isinstance(model, EncoderDecoder) or not is_checkpoint(folder):
        raise ConfigError(
            f"{folder}: the languages of this model cannot be chosen: load a Hugging Face checkpoint of many languages "
            "from its own folder"
        )
    sizes = model.source_vocab_size, model.target_vocab_size
    found = read_surroundings(folder, sizes, Languages(source, target))
    document = {"huggingface": found.document, "unmapped": found.unmapped}
    if found.awaits is not None:
        document["awaits_language"] = found.awaits
    return Translator(model, found.source, found.target, found.decoding, folder, document)


def _refuse_languages(place: Path, *languages: str | None) -> None:
    if any(language is not None for language in languages):
        raise ConfigError(f"{place}: this model has no codes for languages: leave source and target language away")


def _load_toolkit(
    file: Path, device: torch.device, source_language: str | None, target_language: str | None
) -> Translator:
    from pellucid.interop.toolkits import load_toolkit

    _refuse_languages(file, source_language, target_language)
    found = load_toolkit(file, device)
    return Translator(found.model, found.source, found.target, found.decoding, file.parent, found.document)
