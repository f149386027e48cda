"""The trace: every field of the document that docs/trace.md describes.

Arrays are named in comments by their shape: S source tokens, T target tokens of a writing, L layers, H query heads, G
key/value heads, D head size, M model size. How a document becomes JSON is in ``json_form.py``; who fills it is
no business of this file.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pellucid.tracing.arrays import Array

__all__ = [
    "FORMAT",
    "SCHEMA",
    "Ablated",
    "Ablation",
    "Align",
    "Attention",
    "Beyond",
    "Bytes",
    "Cache",
    "CacheBytes",
    "CacheMath",
    "CacheStep",
    "Candidate",
    "Cover",
    "CrossAttention",
    "DecoderAttention",
    "Document",
    "Drift",
    "EncoderAttention",
    "Found",
    "Greedy",
    "GroupedQueries",
    "MaxDiff",
    "Node",
    "Pair",
    "Part",
    "Position",
    "QueryMap",
    "Rotary",
    "SearchEnd",
    "SearchPart",
    "SearchStep",
    "Serial",
    "Sizes",
    "Teacher",
    "Token",
    "Unit",
    "Unmasked",
    "WhatIf",
    "Why",
    "Writing",
]

FORMAT: Literal["pellucid-trace"] = "pellucid-trace"
SCHEMA: Literal[1] = 1
"""Version of the document; raised whenever a reader of the old one would misread the new one."""


class Part(BaseModel):
    """Base of all parts: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Token(Part):
    """A token: number, piece of the vocabulary, the text it stands for; those of one group spell it together."""

    id: int
    piece: str
    text: str
    group: int


class Unit(Part):
    """A word of the source and the numbers of its tokens."""

    text: str
    tokens: list[int]


class Sizes(Part):
    """Numbers of the architecture, resolved."""

    encoder_layers: int
    decoder_layers: int
    heads: int
    encoder_kv_heads: int
    self_kv_heads: int
    cross_kv_heads: int
    head_size: int
    hidden_size: int
    ff_size: int
    source_vocab_size: int
    target_vocab_size: int
    parameters: int


# -- source


class Beyond(Part):
    """What the engine says to a sequence of that length; None: it goes on."""

    length: int
    error: str | None


class Rotary(Part):
    """Cosines and sines of the angles that queries and keys are turned by."""

    cosine: Array  # [S, D/2]
    sine: Array


class Ablated(Part):
    """Source against permuted source, with positions or without."""

    enc_maxdiff: float
    logit_maxdiff: float
    enc_max: float
    logit_max: float
    texts: tuple[str, str]


class Ablation(Part):
    """What becomes of a model whose source has another order."""

    perm: list[int]
    permuted: list[Token]
    on: Ablated
    off: Ablated


class Position(Part):
    """How order enters the encoder."""

    scheme: Literal["sinusoidal", "learned", "rotary", "relative", "none"]
    added: bool
    first: int
    max_length: int | None
    beyond: Beyond
    scale: float
    tok_emb: Array  # [S, M]
    pe: Array | None  # [S, M]
    input: Array  # [S, M]
    normed: Array | None  # [S, M]
    formula: Array | None  # [S, M]
    rotary: Rotary | None
    bias: Array | None  # [H, S, S]
    ablation: Ablation | None


class Attention(Part):
    """One use of attention in every layer of a stack: [L] × [H, rows, columns], [L] × [H or G, rows, D]."""

    divisor: float
    attn: list[Array]
    scores: list[Array]
    q: list[Array]
    k: list[Array]
    v: list[Array]


class EncoderAttention(Attention):
    """Two-sided self-attention of the source."""

    pad_mask: list[bool]


# -- a writing


class Unmasked(Part):
    """The same decoder without its mask."""

    attn: list[Array]  # [L] × [H, T, T]
    logp: list[float]
    logit_maxdiff: list[float]


class DecoderAttention(Attention):
    """Causal self-attention of the target."""

    mask: Array  # [T, T]
    bias: Array | None  # [H, T, T]
    unmasked: Unmasked


class Align(Part):
    """Heads chosen to align words, and what each is worth alone, in percent."""

    heads: list[tuple[int, int]]
    reading: Literal["write", "read"]
    agreement: float
    write: list[list[float]]
    read: list[list[float]]


class CrossAttention(Attention):
    """Attention of the target to the source."""

    head_align: Align | None


class Cover(Part):
    """What is written becomes worth when a source word is hidden."""

    unit: int
    tokens: list[int]
    logp: list[float]
    change: list[float]


class Teacher(Part):
    """The whole target in one call."""

    input_ids: list[int]
    gold_ids: list[int]
    logp: list[float]
    argmax_ids: list[int]
    calls: int
    ms: float


class Serial(Part):
    """The same token by token, through the cache."""

    ids: list[int]
    logp: list[float]
    argmax_ids: list[int]
    calls: int
    ms: float
    step_ms: list[float]
    runs: int = 1


class MaxDiff(Part):
    """How far the two are apart."""

    logits: float
    logit_max: float
    relative: float
    logp: float
    argmax_equal: bool


class Drift(Part):
    """One wrong token in the prefix, and what comes of it."""

    at: int
    original: Token
    replaced: Token
    clean_logp: list[float]
    logp: list[float]
    written: list[Token]
    text: str
    rejoins: int | None


class Candidate(Part):
    """A token that might come next."""

    token: Token
    logp: float


class CacheBytes(Part):
    """Bytes in use and reserved."""

    self: int
    cross: int
    allocated_self: int
    allocated_cross: int


class Bytes(Part):
    """Bytes of the two parts of a cache."""

    self: int
    cross: int


class Pair(Part):
    """With the cache, and without it."""

    cached: float
    uncached: float | None


class CacheMath(Part):
    """Multiply-adds with the cache, and without it."""

    cached: int
    uncached: int


class CacheStep(Part):
    """The cache after one step."""

    new_rows: int
    reused_rows: int
    self_len: int
    cross_len: int
    bytes: CacheBytes
    formula: Bytes
    macs: CacheMath
    ms: Pair


class Cache(Part):
    """The KV cache while the target was written, one row."""

    layers: int
    self_kv_heads: int
    cross_kv_heads: int
    head_size: int
    bytes_per_number: int
    self_shape: list[int]
    cross_shape: list[int]
    prefill_macs: int
    steps: list[CacheStep]
    same_ids: bool | None
    logp_maxdiff: float | None


class Writing(Part):
    """The decoder's side of one target."""

    name: Literal["hypothesis", "greedy"]
    text: str
    tgt: list[Token]
    input: list[Token]
    forced: list[bool]
    logp: list[float]
    sum_logp: float
    len: int
    penalty: float
    score: float
    finish_reason: Literal["eos", "length"]
    decoder: DecoderAttention
    cross: CrossAttention
    cover: list[Cover] | None
    tf: Teacher
    ar: Serial
    maxdiff: MaxDiff
    drift: Drift | None
    topk: list[list[Candidate]]
    chosen_rank: list[int]
    entropy: list[float]
    kv: Cache


# -- search


class Why(Part):
    """Numbers behind a node's status; see docs/trace.md."""

    needed: float | None = None
    bound: float | None = None
    worst_kept: float | None = None


class Node(Part):
    """One continuation that search looked at."""

    id: int
    parent: int | None
    step: int
    rank: int
    token: Token
    logp: float
    sum_logp: float
    len: int
    penalty: float
    score: float
    status: Literal["kept", "finished", "cut", "stopped", "pruned"]
    why: Why | None
    group: int


class SearchStep(Part):
    """Live rows of a step, and the cache then."""

    rows: int
    bytes: CacheBytes


class Found(Part):
    """A hypothesis of the n-best list."""

    rank: int
    node: int | None
    writing: int
    text: str
    ids: list[int]
    sum_logp: float
    len: int
    penalty: float
    score: float
    finish_reason: Literal["eos", "length"]


class Greedy(Part):
    """What greedy search finds, and how far the beam goes along with it."""

    writing: int
    nodes: list[int]
    text: str
    ids: list[int]
    sum_logp: float
    len: int
    penalty: float
    score: float
    finish_reason: Literal["eos", "length"]


class SearchEnd(Part):
    """Why a search ended."""

    step: int
    best_live: float
    bound: float
    worst_kept: float | None


class SearchPart(Part):
    """The lattice of a search."""

    beam_size: int
    n_best: int
    limit: int
    length_penalty: Literal["average", "power", "gnmt", "none"]
    length_alpha: float
    stop: str
    beam: str
    nodes: list[Node]
    reorder: list[list[int] | None]
    steps: list[SearchStep]
    nbest: list[Found]
    greedy: Greedy
    end: SearchEnd | None


# -- grouped queries


class QueryMap(Part):
    """Key/value head of each query head, in each use of attention."""

    encoder: list[int]
    self: list[int]
    cross: list[int]


class WhatIf(Part):
    """Bytes of another number of key/value heads, by the formula."""

    kv_heads: int
    self: int
    cross: int


class GroupedQueries(Part):
    """Which query heads share keys and values, and what that saves."""

    kind: Literal["multi-head", "grouped", "multi-query"]
    q_to_kv: QueryMap
    bytes_actual: Bytes
    bytes_mha: Bytes
    what_if: list[WhatIf]


class Document(Part):
    """All of it. A writing or a cover that nobody has asked for yet is None; a saved document has none of these."""

    format: Literal["pellucid-trace"] = FORMAT
    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    source: Literal["live", "recorded"]
    id: str
    created: str
    engine_version: str
    model: str
    checkpoint_sha: str
    device: str
    dtype: str
    threads: int
    config: dict[str, Any]
    sizes: Sizes
    request: dict[str, Any]
    src: list[Token]
    source_units: list[Unit]
    position: Position
    encoder: EncoderAttention
    writings: list[Writing | None]
    search: SearchPart
    gqa: GroupedQueries
