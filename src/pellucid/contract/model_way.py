"""The way of generating that a translator is: its public ``generate`` beside its model's plain teacher-forced pass.

Knows the model; knows nothing about search, which is what is checked. Everything is seen and restricted by hooks on the
model's modules, which hold for whatever path a search takes through them.
Shapes: B sentences, T target tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.config import DecodingConfig
from pellucid.contract.ways import CacheReading, Logits, Output
from pellucid.data.batches import Batch
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer, framed
from pellucid.decoding.token_settings import TokenSettings
from pellucid.model.attention import Attention
from pellucid.model.cache import KVCache
from pellucid.model.layers import DecoderLayer, EncoderLayer
from pellucid.model.transformer import EncoderDecoder
from pellucid.trace import AttentionEvent, Observer

__all__ = ["ModelWay", "Translating"]


@runtime_checkable
class Translating(Protocol):
    """What is needed of a :class:`~pellucid.translator.Translator`."""

    model: EncoderDecoder
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    rules: TextRules
    decoding: DecodingConfig

    def generate(self, sources: Sequence[str], **settings: Any) -> Sequence[Any]:
        """A ``Generation`` for each source."""
        ...

    def batch(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Batch:
        """A batch of token numbers without ``<s>`` and ``</s>``, on the model's device."""
        ...


class ModelWay:
    """A translator as a :class:`~pellucid.contract.ways.Way` that can be looked into.

    Args:
        translator: with its model in evaluation mode.
        name: for the report.
        own: the settings taken for the model's own; default: those it has.
        **settings: what makes this way another one, e.g. a decoding setting; a check's own settings win.

    Raises:
        ConfigError: ``own`` forbids a token that the vocabulary does not have.
    """

    def __init__(
        self, translator: Translating, name: str = "pellucid", own: DecodingConfig | None = None, **settings: Any
    ) -> None:
        self.name = name
        self.translator, self.model, self.settings = translator, translator.model, settings
        tokenizer = translator.target_tokenizer
        self.bos_id: int = tokenizer.bos_id
        self.eos_id: int = tokenizer.eos_id
        self.own = translator.decoding if own is None else own
        self._token_settings = TokenSettings(tokenizer, translator.rules)
        # A decoder may start with </s> or with padding: what it reads first is not what it never writes.
        rules = self._token_settings.rules(DecodingConfig(forbidden_tokens=self.own.forbidden_tokens))
        self.suppressed: tuple[int, ...] = tuple(sorted(set(rules.forbidden) - {self.eos_id}))
        encoder, decoder = self.model.encoder.embedder.positions, self.model.decoder.embedder.positions
        self.max_positions = encoder.max_length, decoder.max_length

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        generations = self.translator.generate(list(sources), **{**self.settings, **settings})
        return [
            [Output(tuple(h.token_ids), tuple(h.token_logprobs), h.score, h.finish_reason) for h in each.hypotheses]
            for each in generations
        ]

    def prefix(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        chosen = {name: settings[name] for name in ("prefix", "prefix_tokens") if name in settings}
        return tuple(self._token_settings.prefix(DecodingConfig.model_validate(chosen)))

    @torch.inference_mode()
    def parallel(self, sources: Sequence[str], targets: Sequence[Sequence[int]], last: bool = False) -> list[Logits]:
        batch = self._batch(sources, targets)
        if last:
            states = self.model.decode(batch.source, batch.source_mask, batch.target_in)
            ends = torch.tensor([len(target) - 1 for target in targets], device=states.device)
            rows = self.model.output(states[torch.arange(len(targets), device=states.device), ends])
            return list(_array(rows)[:, None])
        logits = _array(self.model(batch.source, batch.source_mask, batch.target_in))
        return [row[: len(target)] for row, target in zip(logits, targets, strict=True)]

    @torch.inference_mode()
    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Logits]:
        batch = self._batch(sources, targets)
        model = self.model
        cache = model.start_cache(model.encode(batch.source, batch.source_mask), batch.source_mask)
        steps = [_array(model.step(tokens, cache)) for tokens in batch.target_in.unbind(1)]
        return [row[: len(target)] for row, target in zip(np.stack(steps, 1), targets, strict=True)]

    def _batch(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> Batch:
        encoded = [self._encode(source) for source in sources]
        return self.translator.batch(encoded, [list(target[:-1]) for target in targets])

    def source_length(self, source: str) -> int:
        return len(self._encode(source)) + 1

    def _encode(self, source: str) -> list[int]:
        tokenizer = self.translator.source_tokenizer
        return framed(tokenizer, tokenizer.encode(self.translator.rules.read_source(source)))

    @contextmanager
    def restricted(self, tokens: Sequence[int]) -> Iterator[None]:
        output = self.model.output
        forbidden = torch.ones(output.out_features, dtype=torch.bool, device=output.weight.device)
        forbidden[list(tokens)] = False
        handle = output.register_forward_hook(lambda _, __, logits: logits.masked_fill(forbidden, -torch.inf))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def observed(self, attention: Callable[[AttentionEvent], None]) -> Iterator[None]:
        listener = _Listener(attention)

        def listen(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            call = inspect.signature(module.forward).bind(*given, **named)
            call.arguments["observer"] = listener
            return call.args, call.kwargs

        with _hooked(self.model, Attention, lambda m: m.register_forward_pre_hook(listen, with_kwargs=True)):
            yield

    def cache_readings(self, sources: Sequence[str], **settings: Any) -> list[CacheReading]:
        readings: list[CacheReading] = []

        def read(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], _result: Tensor) -> None:
            for cache in (*given, *named.values()):
                if isinstance(cache, KVCache):
                    readings.append(self._reading(cache))

        handle = self.model.decoder.register_forward_hook(read, with_kwargs=True)
        try:
            self.generate(sources, **settings)
        finally:
            handle.remove()
        return readings

    def _reading(self, cache: KVCache) -> CacheReading:
        config, used = self.model.config, cache.used_bytes()
        number = self.model.output.weight.element_size()
        layer = 2 * config.decoder_layers * config.head_size * number
        return CacheReading(
            cache.sentences,
            cache.rows,
            cache.length,
            cache.source_mask.shape[-1],
            layer * config.self_kv_heads,
            layer * config.cross_kv_heads,
            used.self_attention,
            cache.allocated_bytes().self_attention,
            used.cross_attention,
        )

    def operators(self, call: Callable[[], object]) -> list[str]:
        operators = _Operators()
        with operators:
            call()
        return operators.names

    def layers_run(self, call: Callable[[], object]) -> tuple[int, Exception | None]:
        count = 0

        def tick(*_: Any) -> None:
            nonlocal count
            count += 1

        error: Exception | None = None
        with _hooked(self.model, (EncoderLayer, DecoderLayer), lambda m: m.register_forward_pre_hook(tick)):
            try:
                call()
            except Exception as raised:
                error = raised
        return count, error


class _Listener(Observer):
    """An observer that passes events on."""

    def __init__(self, attention: Callable[[AttentionEvent], None]) -> None:
        self._attention = attention

    def attention(self, event: AttentionEvent) -> None:
        self._attention(event)


class _Operators(TorchDispatchMode):
    """The names of the operators that PyTorch dispatches; torch.profiler tells the same, and writes to stderr."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _hooked(
    model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...], hook: Callable[[nn.Module], Any]
) -> Iterator[None]:
    handles = [hook(module) for module in model.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _array(tensor: Tensor) -> Any:
    return tensor.float().cpu().numpy()
