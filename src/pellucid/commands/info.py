"""``pellucid info``: what a model is, how large, how it was trained, and what its KV cache costs.

Knows nothing of commands' input; everything is read from the model folder, and from a run folder around it: of weights
of our own, their shapes alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.terminal import to_json

__all__ = ["describe", "info"]

_VOCABULARY = 8
"""Any: no vector of a word is in a cache."""
WIDTH = 90
"""Characters of a long line of settings, without its label."""
MEASURED_TOKENS = 8
"""Source and target tokens of the cache that is measured; fewer where a learned table has fewer positions."""


def info(
    model: options.ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="The name and the shape of every parameter instead, one a line.")
    ] = False,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Show what a model is, how large, and what its KV cache costs.

    Parameters by part, architecture, tokenizers, training, decoding settings, and KV-cache bytes. The bytes come
    from the architecture (2 · layers · key/value heads · head size · bytes per number) and, beside them, from a real
    cache; multi-head is what the model would need with a key/value head for each query head. Generation settings of a
    Hugging Face checkpoint that have no counterpart here are listed as not mapped. Of adapters (training.lora) it says
    where they sit and what the model is that they were trained beside; the rest is of both together.

    --parameters writes the names that training.freeze matches, with shapes, separated by tabs; a third column has the
    other names of a matrix that is shared.
    """
    from pellucid.commands.reading import name_bundled
    from pellucid.loading import load

    if model is None:
        name_bundled()
    translator = load(model, "meta", source_language=source_language, target_language=target_language)
    facts = {"parameters": _parameters(translator.model)} if parameters else describe(translator)
    if as_json:
        typer.echo(to_json(facts, indent=2))
    elif parameters:
        for one in facts["parameters"]:
            columns = one["name"], " × ".join(map(str, one["shape"])), ", ".join(one["tied"])
            typer.echo("\t".join(columns).rstrip())
    else:
        for line in _lines(facts):
            typer.echo(line)


def _parameters(model: Any) -> list[dict[str, Any]]:
    """Every parameter: its name, its shape, and the other names it has where it is tied."""
    from pellucid.training.tuning import parameter_names

    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return [{"name": name, "shape": shapes[name], "tied": tied} for name, tied in parameter_names(model).items()]


def describe(translator: Any) -> dict[str, Any]:
    """The facts about a :class:`~pellucid.translator.Translator`, as a value for JSON."""
    model = translator.model
    counts = model.parameter_counts()
    source, target = translator.source_tokenizer, translator.target_tokenizer
    return {
        "folder": str(translator.folder),
        "checkpoint": _origin(translator.document),
        "weights": _weights(translator),
        "adapter": translator.document.get("adapter"),
        "parameters": {**counts, "total": sum(counts.values())},
        "stacks": "encoder and decoder" if hasattr(model, "encoder") else "decoder",
        "model": model.config.model_dump(mode="json"),
        "tokenizers": {
            "shared": translator.source_tokenizer_alone is target,
            "source": {"kind": source.kind, "vocab_size": source.vocab_size},
            "target": {"kind": target.kind, "vocab_size": target.vocab_size},
        },
        "text": {name: value for name, value in translator.rules.to_json().items() if name != "format"},
        "training": _training(translator),
        "decoding": translator.decoding.model_dump(mode="json"),
        "unmapped": translator.document.get("unmapped", []),
        "kv_cache": _cache(model),
    }


def _origin(document: dict[str, Any]) -> str | None:
    """The program that wrote a checkpoint and what it calls the architecture; None for a model of our own."""
    if "origin" in document:
        return f"{document['origin']['program']}, {document['origin']['architecture']}"
    return f"Hugging Face, {document['huggingface'].get('model_type')}" if "huggingface" in document else None


def _weights(translator: Any) -> dict[str, Any] | None:
    """How the numbers of a model of our own are stored, and in how many bytes; None for a checkpoint.

    Of adapters it is their own file, without the model beside it.
    """
    from pellucid.model.adapter_config import ADAPTER_FILE
    from pellucid.model.storage import WEIGHTS_FILE

    if "format" not in translator.document:
        return None
    file = ADAPTER_FILE if "adapter" in translator.document else WEIGHTS_FILE
    size = (translator.folder / file).stat().st_size
    return {"storage": translator.document.get("storage", "float32"), "bytes": size}


def _training(translator: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"update": translator.document.get("update")}
    run: Path = translator.folder.resolve().parent  # resolved, because the folder may be "."
    from pellucid.training.checkpoint import has_state, load_progress

    if (run / "config.yaml").is_file() and has_state(run / "last"):
        from pellucid.config import load_config

        progress = load_progress(run / "last")
        facts |= {
            "run": str(run),
            "updates_done": progress.update,
            "target_tokens": progress.target_tokens,
            "seconds": round(progress.seconds, 1),
            "metric": load_config(run / "config.yaml").training.metric,
            "best": progress.best,
            "best_update": progress.best_update,
            "finished": progress.finished,
        }
    return facts


def _cache(model: Any) -> dict[str, Any]:
    """Bytes per token: by formula, measured, and of the multi-head equivalent.

    Measured on a model of the same architecture without numbers: weights, which may be large, are not read for it.
    """
    import torch

    from pellucid.model.skeleton import skeleton

    config, size = model.config, model.output.weight.element_size()
    model = skeleton(lambda: type(model)(config, *[_VOCABULARY] * (2 if hasattr(model, "encoder") else 1)))
    model = model.to("meta").eval()
    if not hasattr(model, "encoder"):
        return _cache_of_decoder(model)
    with torch.inference_mode():
        limits = [part.embedder.positions.max_length for part in (model.encoder, model.decoder)]
        tokens = min([MEASURED_TOKENS, *(limit for limit in limits if limit is not None)])
        source = torch.ones(1, tokens, dtype=torch.int64, device=model.output.weight.device)
        mask = torch.ones_like(source, dtype=torch.bool)
        cache = model.start_cache(model.encode(source, mask), mask)
        for position in range(tokens):
            model.step(source[:, position], cache)
        used = cache.used_bytes()
    head = 2 * config.decoder_layers * config.head_size * size
    return {
        "bytes_per_number": size,
        "self_attention_per_target_token": {
            "formula": head * config.self_kv_heads,
            "measured": used.self_attention // tokens,
            "multi_head": head * config.num_heads,
        },
        "cross_attention_per_source_token": {
            "formula": head * config.cross_kv_heads,
            "measured": used.cross_attention // tokens,
            "multi_head": head * config.num_heads,
        },
    }


def _cache_of_decoder(model: Any) -> dict[str, Any]:
    """The same of a decoder alone, which holds nothing of a source."""
    import torch

    config, size = model.config, model.output.weight.element_size()
    with torch.inference_mode():
        cache = model.start_cache(1)
        model(torch.ones(1, 2, dtype=torch.int64, device=model.output.weight.device), cache)
    head = 2 * config.decoder_layers * config.head_size * size
    own = {
        "formula": head * config.self_kv_heads,
        "measured": cache.used_bytes().self_attention // 2,
        "multi_head": head * config.num_heads,
    }
    nothing = {"formula": 0, "measured": cache.used_bytes().cross_attention, "multi_head": 0}
    return {
        "bytes_per_number": size,
        "self_attention_per_target_token": own,
        "cross_attention_per_source_token": nothing,
    }


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    model, cache, weights = facts["model"], facts["kv_cache"], facts["weights"]
    yield facts["folder"]
    if facts["checkpoint"]:
        yield f"checkpoint       {facts['checkpoint']}"
    if weights:
        yield f"weights          {weights['storage']}, {weights['bytes']:,} bytes"
    if adapter := facts["adapter"]:
        places = len(adapter["layers"])
        yield f"adapters         of rank {adapter['rank']}, alpha {adapter['alpha']:g}, on {places} layers"
        yield f"                 of {adapter['base']} (SHA-256 {adapter['base_sha256'][:12]}…)"
    yield f"parameters       {facts['parameters']['total']:,}"
    for part in ("embeddings", "encoder", "decoder"):
        yield f"  {part:<14} {facts['parameters'][part]:,}"
    is_alone = facts["stacks"] == "decoder"
    alone = f"a decoder alone: {model['decoder_layers']} layers"
    layers = f"{model['encoder_layers']} encoder and {model['decoder_layers']} decoder layers"
    yield (
        f"architecture     {alone if is_alone else layers}, "
        f"hidden size {model['hidden_size']}, feed-forward {model['ff_size']} ({model['activation']})"
    )
    self_heads = model["num_kv_heads"] or model["num_heads"]
    cross_heads = model["cross_num_kv_heads"] or self_heads
    head_size = model["head_dim"] or model["hidden_size"] // model["num_heads"]
    yield (
        f"                 {model['num_heads']} heads of {head_size}; "
        f"key/value heads: {self_heads}{'' if is_alone else f' in self-attention, {cross_heads} in cross-attention'}"
    )
    yield (
        f"                 {model['norm']}, {model['norm_placement']}-norm, {model['positions']} positions, "
        f"tied embeddings: {model['tied_embeddings']}"
    )
    tokenizers = facts["tokenizers"]
    for side in ("source",) if tokenizers["shared"] else ("source", "target"):
        name = "shared" if tokenizers["shared"] else side
        label = "tokenizer" if side == "source" else ""
        yield f"{label:<16} {name}: {tokenizers[side]['kind']}, {tokenizers[side]['vocab_size']:,} tokens"
    yield from _text_lines(facts["text"])
    yield from _training_lines(facts["training"])
    yield from _decoding_lines(facts["decoding"])
    if facts["unmapped"]:
        yield f"not mapped       {'; '.join(facts['unmapped'])}"
    yield f"KV cache         {'bytes':>24}{'measured':>12}{'multi-head':>12}"
    for part, label in (
        ("self_attention_per_target_token", "  per target token and beam"),
        ("cross_attention_per_source_token", "  per source token"),
    ):
        row = cache[part]
        yield f"{label:<27}{row['formula']:>14,}{row['measured']:>12,}{row['multi_head']:>12,}"


def _decoding_lines(decoding: dict[str, Any]) -> Iterator[str]:
    """The settings that are not pellucid's own; all of them are in the JSON object."""
    from pellucid.config import DecodingConfig

    usual = DecodingConfig().model_dump(mode="json")
    own = [f"{name} {to_json(value)}" for name, value in decoding.items() if value != usual[name]]
    text = f"{', '.join(own)}; the rest as usual" if own else f"as usual (beam_size {decoding['beam_size']})"
    first, *others = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    yield f"decoding         {first}"
    yield from (f"                 {line}" for line in others)


def _text_lines(text: dict[str, Any]) -> Iterator[str]:
    """The rules for text; nothing where there are none."""
    rules = [f"{side} in {text[f'{side}_script']} script" for side in ("source", "target")]
    rules = [rule for rule in rules if "none" not in rule.split()]
    if text["placeholders"]:
        rules.append(f"placeholders for {', '.join(text['placeholders'])}")
    if text.get("tags"):
        rules.append(f"tags {', '.join(text['tags'])}")
    if rules:
        yield f"text             {'; '.join(rules)}"


def _training_lines(training: dict[str, Any]) -> Iterator[str]:
    update = training["update"]
    yield f"training         {'unknown' if update is None else f'weights of update {update:,}'}"
    if "run" in training:
        best = training["best"]
        reached = "none yet" if best is None else f"{best:.3f} at update {training['best_update']:,}"
        yield f"                 best {training['metric']}: {reached}"
        yield (
            f"                 {training['updates_done']:,} updates on {training['target_tokens']:,} target tokens in "
            f"{training['seconds']:,.0f} s; {training['finished'] or 'not finished'}"
        )
