"""Makes traces of one model: the whole at once for Python and the command line, or piece by piece for a server.

One trace is computed at a time, whoever asks. Nothing here changes the model.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Literal

import torch

from pellucid import __version__
from pellucid.config import DecodingConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.penalties import length_penalty
from pellucid.errors import ConfigError, DataError
from pellucid.tracer.cache import describe_groups
from pellucid.tracer.lattice import Lattice, walk
from pellucid.tracer.source import describe_source
from pellucid.tracer.subject import Subject, Traceable, unmasked_copy, unordered_copy
from pellucid.tracer.writing import cover, describe_writing
from pellucid.tracing.document import Align, Cover, Found, Greedy, SearchPart, Sizes, Unit, Writing
from pellucid.tracing.request import TraceRequest
from pellucid.tracing.trace import Trace

__all__ = ["EAGER_UNITS", "LiveTrace", "Tracer"]

EAGER_UNITS = 24
"""Source words up to which all are covered before anyone asks."""

Heads = tuple[Sequence[tuple[int, int]], Literal["write", "read"], Mapping[str, Any]]
FinishReason = Literal["eos", "length"]


class Tracer:
    """Makes traces of a translator's model.

    Args:
        translator: with its model in evaluation mode.
        heads: alignment heads that were chosen for it, how they are read, and the report of the choice.
    """

    def __init__(self, translator: Traceable, heads: Heads | None = None) -> None:
        self.translator = translator
        self.head_align = None if heads is None else _alignment(*heads)
        self.lock = threading.Lock()

    @cached_property
    def checkpoint_sha(self) -> str:
        """SHA-256 of the weights' file, or of all parameters where there is no such file."""
        folder = self.translator.folder
        path = None if folder is None else folder / "model.safetensors"
        digest = hashlib.sha256()
        if path is not None and path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            for name, parameter in self.translator.model.named_parameters():
                digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}\n".encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """The model's name: its folder's, or that of the run it is the best of."""
        folder = self.translator.folder
        if folder is None:
            return "model"
        resolved = folder.resolve()
        return resolved.parent.name if resolved.name in ("best", "last") else resolved.name

    @cached_property
    def sizes(self) -> Sizes:
        """Numbers of the architecture."""
        model, config = self.translator.model, self.translator.model.config
        return Sizes(
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            heads=config.num_heads,
            encoder_kv_heads=config.self_kv_heads,
            self_kv_heads=config.self_kv_heads,
            cross_kv_heads=config.cross_kv_heads,
            head_size=config.head_size,
            hidden_size=config.hidden_size,
            ff_size=config.ff_size,
            source_vocab_size=model.source_vocab_size,
            target_vocab_size=model.target_vocab_size,
            parameters=sum(model.parameter_counts().values()),
        )

    @cached_property
    def _copies(self) -> tuple[Any, Any]:
        return unordered_copy(self.translator.model), unmasked_copy(self.translator.model)

    def trace(self, request: Mapping[str, Any]) -> Trace:
        """The whole trace.

        Raises:
            ConfigError, DataError, GenerationError, LengthError: as :meth:`Translator.trace` says.
        """
        live = self.start(request, source="recorded")
        return live.complete()

    def start(self, request: Mapping[str, Any], source: Literal["live", "recorded"] = "live") -> LiveTrace:
        """A trace of which only the first writing is there yet."""
        checked = TraceRequest.read(dict(request))
        if not checked.text.strip():
            raise DataError("nothing to trace: the text is blank")
        with self.lock, torch.inference_mode():
            return self._start(checked, source)

    def _start(self, request: TraceRequest, source: Literal["live", "recorded"]) -> LiveTrace:
        config = self._settings(request)
        translator, model = self.translator, self.translator.model
        ids = translator.source_ids(request.text, config)
        tokenizer = translator.source_tokenizer
        numbers = [*ids, tokenizer.eos_id, *[tokenizer.pad_id] * request.padding]
        device = model.output.weight.device
        tensor = torch.tensor([numbers], device=device)
        subject = Subject(translator, request, config, tensor, tensor != tokenizer.pad_id, *self._copies)
        targets, search = _search(subject)
        units = subject.units()
        position, encoder = describe_source(subject)
        live = LiveTrace(self, subject, units, targets)
        first = live.write(0, eager=True)
        filled = self._filled(request, config)
        config_document = {"model": model.config.model_dump(mode="json"), "decoding": config.model_dump(mode="json")}
        live.trace = Trace(
            source=source,
            id=self._id(filled, config_document),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            engine_version=__version__,
            model=self.name,
            checkpoint_sha=self.checkpoint_sha,
            device=str(device),
            dtype=str(model.output.weight.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            config=config_document,
            sizes=self.sizes,
            request=filled,
            src=subject.source_tokens(numbers),
            source_units=units,
            position=position,
            encoder=encoder,
            writings=[first, *[None] * (len(targets) - 1)],
            search=search,
            gqa=describe_groups(model.config, first.kv),
        )
        return live

    def _settings(self, request: TraceRequest) -> DecodingConfig:
        named = {
            name: value
            for name in ("beam_size", "length_penalty", "length_alpha", "max_length")
            if (value := getattr(request, name)) is not None
        }
        beam = named.get("beam_size", self.translator.decoding.beam_size)
        named["n_best"] = beam if request.n_best is None else request.n_best
        if named["n_best"] > beam:
            raise ConfigError(
                f"n_best ({named['n_best']}) must not exceed beam_size ({beam}): raise beam_size or lower n_best"
            )
        return self.translator.settings(sampling=False, **named)

    def _filled(self, request: TraceRequest, config: DecodingConfig) -> dict[str, Any]:
        settings = ("beam_size", "n_best", "length_penalty", "length_alpha", "max_length")
        return request.model_dump(mode="json") | {name: getattr(config, name) for name in settings}

    def _id(self, filled: dict[str, Any], config: dict[str, Any]) -> str:
        asked = json.dumps([self.checkpoint_sha, config, filled, __version__], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


class LiveTrace:
    """A trace that is computed as far as someone asks.

    Attributes:
        trace: the document; what is None in it is not there yet.
    """

    trace: Trace

    def __init__(self, tracer: Tracer, subject: Subject, units: list[Unit], targets: list[_Target]) -> None:
        self._tracer, self._subject, self._units, self._targets = tracer, subject, units, targets
        self._covers: dict[int, list[Cover]] = {}

    def write(self, number: int, *, eager: bool) -> Writing:
        """Describe a target; the lock must be held."""
        ids, finish_reason, name = self._targets[number]
        asked = self._subject.request.cover
        covers = self._cover(number) if asked and eager and len(self._units) <= EAGER_UNITS else None if asked else []
        corrupt = self._subject.request.corrupt if number == 0 else None
        return describe_writing(
            self._subject,
            ids,
            finish_reason,
            name=name,
            head_align=self._tracer.head_align,
            covers=covers,
            corrupt=corrupt,
        )

    def _cover(self, number: int) -> list[Cover]:
        return cover(self._subject, self._units, self._targets[number][0])

    def fill(self, path: str) -> None:
        """Compute what is missing on the way to a part of the document such as ``writings/2/cover``."""
        parts = path.split("/")
        if parts[0] != "writings" or len(parts) < 2 or not (parts[1].isascii() and parts[1].isdigit()):
            return
        number = int(parts[1])
        if number >= len(self._targets):
            return
        with self._tracer.lock, torch.inference_mode():
            writing = self.trace.writings[number]
            if writing is None:
                writing = self.trace.writings[number] = self.write(number, eager=True)
            if writing.cover is None and parts[2:3] == ["cover"]:
                self.trace.writings[number] = writing.model_copy(update={"cover": self._cover(number)})

    def complete(self) -> Trace:
        """The document with everything in it, as it is saved."""
        for number in range(len(self._targets)):
            self.fill(f"writings/{number}/cover")
        return self.trace.model_copy(update={"source": "recorded"})


_Target = tuple[list[int], FinishReason, Literal["hypothesis", "greedy"]]


def _search(subject: Subject) -> tuple[list[_Target], SearchPart]:
    """Search, watched; and greedy search beside it."""
    translator, request, config = subject.translator, subject.request, subject.config
    eos_id = translator.target_tokenizer.eos_id
    text = request.text
    prefix, padding = _checked_prefix(subject), request.padding
    searching, step = translator.open_search(text, config, prefix_ids=prefix, padding=padding)
    lattice = Lattice(eos_id, step.cache)
    searching.watch(lattice)
    while searching.advance():
        pass
    found = searching.results[0]
    limit = searching.limit(0)
    end = lattice.close(config, limit, found)
    tokens = {token: subject.target_token(token) for token in {choice.token for choice in lattice.choices}}
    nodes = lattice.nodes(config, tokens.__getitem__)
    plain = config.model_copy(update={"beam_size": 1, "n_best": 1, "diversity_groups": 1})
    greedily, _ = translator.open_search(text, plain, prefix_ids=prefix, padding=padding)
    while greedily.advance():
        pass
    greedy = greedily.results[0][0]
    targets: list[_Target] = [(_ids(one, eos_id), one.finish_reason, "hypothesis") for one in found]
    places = [place for place, target in enumerate(targets) if target[0] == _ids(greedy, eos_id)]
    if not places:
        targets.append((_ids(greedy, eos_id), greedy.finish_reason, "greedy"))
    nbest = []
    for rank, one in enumerate(found):
        ids = _ids(one, eos_id)
        path = walk(nodes, ids)
        node = path[-1] if len(path) == len(ids) else None
        nbest.append(Found(rank=rank, node=node, writing=rank, **_facts(subject, one)))
    writing = places[0] if places else len(targets) - 1
    path = walk(nodes, _ids(greedy, eos_id))
    return targets, SearchPart(
        beam_size=config.beam_size,
        n_best=config.n_best,
        limit=limit,
        length_penalty=config.length_penalty,
        length_alpha=config.length_alpha,
        stop=config.stop,
        beam=config.beam,
        nodes=nodes,
        reorder=lattice.reorder,
        steps=lattice.steps,
        nbest=nbest,
        greedy=Greedy(writing=writing, nodes=path, **_facts(subject, greedy)),
        end=end,
    )


def _checked_prefix(subject: Subject) -> tuple[int, ...]:
    """The tokens that are demanded.

    Raises:
        ConfigError: one is not in the vocabulary, or stands behind ``</s>``.
    """
    ids = subject.request.prefix_ids
    size = subject.model.target_vocab_size
    for token in ids:
        if token >= size:
            raise ConfigError(f"prefix_ids: there is no token {token}: the vocabulary's numbers end at {size - 1}")
    if subject.translator.target_tokenizer.eos_id in ids[:-1]:
        raise ConfigError("prefix_ids: nothing can follow </s>: leave out what stands behind it")
    return ids


def _ids(hypothesis: Hypothesis, eos_id: int) -> list[int]:
    return [*hypothesis.tokens, *([eos_id] if hypothesis.finish_reason == "eos" else [])]


def _facts(subject: Subject, one: Hypothesis) -> dict[str, Any]:
    config = subject.config
    length = len(one.token_logprobs)
    ids = _ids(one, subject.translator.target_tokenizer.eos_id)
    return {
        "text": subject.text_of(ids),
        "ids": ids,
        "sum_logp": one.sum_logprob,
        "len": length,
        "penalty": length_penalty(config.length_penalty, config.length_alpha, length),
        "score": one.score,
        "finish_reason": one.finish_reason,
    }


def _alignment(
    heads: Sequence[tuple[int, int]], reading: Literal["write", "read"], report: Mapping[str, Any]
) -> Align | None:
    alone = report.get("heads_alone", {})
    if not {"write", "read"} <= set(alone):
        return None
    return Align(
        heads=[(layer, head) for layer, head in heads],
        reading=reading,
        agreement=report["agreement"],
        write=alone["write"],
        read=alone["read"],
    )
