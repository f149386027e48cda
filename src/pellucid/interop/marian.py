"""Models that Marian itself has trained: ``model.npz`` with the settings inside, its vocabularies beside it.

Read by NumPy without pickle. What is in the file is described by the source of Marian (models/transformer.h,
layers/output.cpp, graph/node_initializers.cpp); matrices stand there as [in, out], biases and norms as [1, out]. Marian
has no padding token and starts a target from an embedding of zeros: as in the checkpoints of OPUS-MT, a last token
``<pad>`` of zeros is both. Shapes: V vocabulary, M model size.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.data.foreign_tokenizers import Specials, TableTokenizer
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.interop.assembly import Parts, only, splitter
from pellucid.interop.huggingface.table import ROW_VECTOR, EmbeddingNames, Row, Transform

__all__ = ["find_marian", "marian_parts"]

_CONFIG = "special:model.yml"
_PAD, _BIAS = "<pad>", "decoder_ff_logit_out_b"
_TRANSPOSED = Transform(lambda matrix: matrix.T, lambda matrix: matrix.T)
_NAMES = EmbeddingNames("Wemb", "encoder_Wemb", "decoder_Wemb", "decoder_ff_logit_out_Wt")
_ACTIVATIONS = {"relu": "relu", "swish": "silu"}
_NO: tuple[Any, ...] = (False, 0, "", [])
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "transformer-ffn-activation": tuple(_ACTIVATIONS),  # its gelu is x·σ(1.702x), another function than ours
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-ffn-depth": (2,),
    "transformer-decoder-ffn-depth": (0, 2),
    "transformer-decoder-dim-ffn": (0,),
    "transformer-no-projection": _NO,
    "transformer-tied-layers": _NO,
    "transformer-train-positions": _NO,
    "transformer-train-position-embeddings": _NO,
    "transformer-pool": _NO,
    "right-left": _NO,
    "ulr": _NO,
    "lemma-dim-emb": _NO,
    "input-types": _NO,
}
# preprocess, postprocess and postprocess-top without d, dropout, which is known by its rate
_PLACEMENTS = {("", "an", ""): "post", ("n", "a", "n"): "pre"}
_NO_LOGIT = -100.0
"""Of <pad>, which Marian does not have: no share of the probability that float32 could show."""
_SUFFIX = ".npz"
_SIDES = ({"src", "source"}, {"trg", "tgt", "target"})
"""Parts of a vocabulary's name that say whose it is."""


def find_marian(folder: Path) -> Path | None:
    """The model in a folder: the one that its decoder.yml names, ``model.npz``, or the only one; None without any.

    Raises:
        ModelFolderError: several, and none is named.
    """
    found = sorted(path for path in folder.glob(f"*{_SUFFIX}") if not path.name.endswith(f".optimizer{_SUFFIX}"))
    if not found:
        return None
    models = _read_yaml(folder / "decoder.yml").get("models") if (folder / "decoder.yml").is_file() else None
    named = [Path(str(name)).name for name in models] if isinstance(models, list) and len(models) == 1 else []
    for name in (*named, "model.npz"):
        if folder / name in found:
            return folder / name
    if len(found) > 1:
        raise ModelFolderError(
            f"{folder}: several models ({', '.join(path.name for path in found)}): give the file that is meant"
        )
    return found[0]


def _read_npz(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in float32 by name, and the settings that the file, or the one beside it, holds."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (AttributeError, TypeError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        raise ModelFolderError(
            f"{file}: not arrays of numbers in NumPy's format; the file is damaged or cut short, or of another kind"
        ) from None
    content = arrays.pop(_CONFIG, None)
    settings = _beside(file) if content is None else _parsed(f"{file}: its {_CONFIG}", content.tobytes().rstrip(b"\0"))
    if not settings:
        raise ModelFolderError(
            f"{file}: it has no {_CONFIG}, and there is no {file.name}.yml beside it: not a model that Marian has "
            "written"
        )
    wrong = [name for name, array in arrays.items() if array.dtype.kind != "f"]
    if wrong:
        raise ModelFolderError(
            f"{file}: {', '.join(wrong[:3])}: not floating-point numbers (a quantised model): give the model before "
            "quantisation"
        )
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}, settings


def _beside(file: Path) -> dict[str, Any]:
    """The settings of training that Marian writes beside a model; empty where there are none."""
    path = file.with_name(f"{file.name}.yml")
    return _read_yaml(path) if path.is_file() else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    return _parsed(str(path), path.read_bytes())


def _parsed(what: str, content: bytes) -> dict[str, Any]:
    try:
        value = yaml.safe_load(content.decode())
    except (yaml.YAMLError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{what}: not settings in YAML; the file is damaged: get it again")
    return value


def marian_parts(file: Path) -> Parts:
    """Read a model file, and the decoder's settings and vocabularies beside it.

    Raises:
        ModelFolderError: a variant that is not supported, a file that is missing or damaged.
    """
    tensors, settings = _read_npz(file)
    only(file, settings, _SUPPORTED)
    decoder = _decoder_settings(file)
    model = _model_settings(file, settings)
    source, target = _tokenizers(file, decoder)
    return Parts(
        file=file,
        program=("Marian", "transformer"),
        tensors=_completed(tensors),
        settings=model,
        embeddings=_NAMES,
        rows=_rows,
        source=source,
        target=target,
        ignored=("decoder_c_t", "special:.*"),
        decoding=_decoding(file, decoder),
        unmapped=_unmapped(decoder),
        tied=bool(settings.get("tied-embeddings") or settings.get("tied-embeddings-all")),
    )


def _model_settings(file: Path, s: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings, all but how embeddings are shared."""
    names = ("preprocess", "postprocess", "postprocess-top", "postprocess-emb")
    *steps, embedding = (str(s.get(f"transformer-{name}") or "").replace("d", "") for name in names)
    if tuple(steps) not in _PLACEMENTS or embedding not in ("", "n"):
        said = ", ".join(f"transformer-{name} = {str(s.get(f'transformer-{name}') or '')!r}" for name in names)
        raise ModelFolderError(
            f"{file}: a variant that is not supported: {said} (supported: '', 'dan', '' or 'n', 'da', 'n', and 'd' or "
            "'nd' on embeddings)"
        )
    try:
        return {
            "hidden_size": int(s["dim-emb"]),
            "encoder_layers": int(s["enc-depth"]),
            "decoder_layers": int(s["dec-depth"]),
            "num_heads": int(s["transformer-heads"]),
            "ff_size": int(s["transformer-dim-ffn"]),
            "activation": _ACTIVATIONS[s.get("transformer-ffn-activation") or "swish"],
            "norm_placement": _PLACEMENTS[steps[0], steps[1], steps[2]],
            "norm_epsilon": 1e-6,  # layerNorm in models/transformer.h
            "positions": "sinusoidal",
            # Its frequencies are fairseq's, with positions from 0; transformers' Marian computes slightly others.
            "sinusoidal_layout": "fairseq",
            "embedding_norm": embedding == "n",
            "output_bias": True,
            "dropout": float(s.get("transformer-dropout") or 0.0),
            "attention_dropout": float(s.get("transformer-dropout-attention") or 0.0),
            "ff_dropout": float(s.get("transformer-dropout-ffn") or 0.0),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{file}: its settings do not say how large the model is ({error})") from None


def _completed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a row for <pad> in everything over the vocabulary, and names that say which side a matrix is for."""
    found = dict(tensors)
    if "decoder_ff_logit_out_W" in found:  # [M, V], as older versions write it
        found[_NAMES.output] = found.pop("decoder_ff_logit_out_W").T
    for name in (_NAMES.shared, _NAMES.source, _NAMES.target, _NAMES.output):
        if name in found and found[name].dim() == 2:
            found[name] = F.pad(found[name], (0, 0, 0, 1))
    for name in (_NAMES.source, _NAMES.target):
        if name not in found and _NAMES.shared in found:
            found[name] = found[_NAMES.shared]
    if _NAMES.target in found:
        bias = found.get(_BIAS, torch.zeros(1, len(found[_NAMES.target]) - 1))
        found[_BIAS] = F.pad(bias, (0, 1), value=_NO_LOGIT)
    return found


def _rows(config: ModelConfig) -> list[Row]:
    rows: list[Row] = []
    before = "_pre" if config.norm_placement == "pre" else ""

    def linear(here: str, there: str, part: str) -> None:
        rows.append(Row(f"{here}.weight", (f"{there}_W{part}",), _TRANSPOSED))
        rows.append(Row(f"{here}.bias", (f"{there}_b{part}",), ROW_VECTOR))

    def norm(here: str, there: str, mark: str) -> None:
        rows.append(Row(f"{here}.weight", (f"{there}_ln_scale{mark}",), ROW_VECTOR))
        rows.append(Row(f"{here}.bias", (f"{there}_ln_bias{mark}",), ROW_VECTOR))

    def attention(layer: str, ours: str, there: str) -> None:
        for name in ("query", "key", "value", "output"):
            linear(f"{layer}.{ours}.{name}", there, name[0])
        norm(f"{layer}.{ours}_sublayer.norm", f"{there}_Wo", before)

    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(count):
            here, there = f"{side}.layers.{number}", f"{side}_l{number + 1}"
            attention(here, "attention", f"{there}_self")
            if side == "decoder":
                attention(here, "cross_attention", f"{there}_context")
            linear(f"{here}.feed_forward.up", f"{there}_ffn", "1")
            linear(f"{here}.feed_forward.down", f"{there}_ffn", "2")
            norm(f"{here}.feed_forward_sublayer.norm", f"{there}_ffn_ffn", before)
        if config.embedding_norm:
            norm(f"{side}.embedder.norm", f"{side}_emb", "_pre")
        if config.norm_placement == "pre":
            norm(f"{side}.norm", f"{side}_top", "")
    return [*rows, Row("output.bias", (_BIAS,), ROW_VECTOR)]


# -- what stands beside the model


def _decoder_settings(file: Path) -> dict[str, Any]:
    """The YAML that Marian writes beside a model for its decoder; empty where there is none."""
    paths = (file.with_name(f"{file.name}.decoder.yml"), file.with_name("decoder.yml"))
    return next((_read_yaml(path) for path in paths if path.is_file()), {})


def _tokenizers(file: Path, decoder: Mapping[str, Any]) -> tuple[Tokenizer, Tokenizer]:
    named = decoder.get("vocabs") or _beside(file).get("vocabs") or []  # what is inside the model does not name them
    paths = [file.parent / Path(str(name)).name for name in named] or _unnamed(file)
    if not paths:
        raise ModelFolderError(f"{file.parent}: there is no vocabulary (vocab.spm, vocab.yml) beside {file.name}")
    if missing := [path.name for path in dict.fromkeys(paths) if not path.is_file()]:
        raise ModelFolderError(
            f"{file.parent}: {', '.join(missing)} missing, the vocabulary of {file.name}; put it beside the model"
        )
    if len(paths) > 2:
        raise ModelFolderError(f"{file}: {len(paths)} vocabularies: models of several sources are not supported")
    for path in paths:
        if path.suffix not in _VOCABULARIES:
            raise ModelFolderError(f"{path}: a vocabulary is a file {', '.join(_VOCABULARIES)}; others are not read")
    source = _tokenizer(file, paths[0], "source")
    target = _tokenizer(file, paths[-1], "target")
    return source, source if source.fingerprint == target.fingerprint else target


def _unnamed(file: Path) -> list[Path]:
    """The vocabulary in the folder; or two, the source's first, where their own names say which is which.

    Raises:
        ModelFolderError: several, and nothing says which is the source's.
    """
    found = sorted(path for path in file.parent.iterdir() if "vocab" in path.name and path.suffix in _VOCABULARIES)
    if len(found) < 2:
        return found
    sides = [[path for path in found if names & set(re.split(r"[^a-z]+", path.name.lower()))] for names in _SIDES]
    if len(found) == 2 and [len(paths) for paths in sides] == [1, 1] and sides[0] != sides[1]:
        return [*sides[0], *sides[1]]
    raise ModelFolderError(
        f"{file.parent}: several vocabularies ({', '.join(path.name for path in found)}), and nothing says which is "
        f"the source's and which the target's: put the decoder.yml that Marian has written beside {file.name}"
    )


def _tokenizer(file: Path, vocabulary: Path, side: str) -> Tokenizer:
    """A vocabulary with what splits text into its pieces: itself, SentencePiece or codes beside it, or spaces."""
    pieces = _VOCABULARIES[vocabulary.suffix](vocabulary)
    numbers = {piece: number for number, piece in reversed(list(enumerate(pieces)))}
    if "</s>" not in numbers or "<unk>" not in numbers:
        raise ModelFolderError(f"{vocabulary}: </s> or <unk> is missing: not a vocabulary of Marian")
    pad = len(pieces)
    specials = Specials(pad=pad, unk=numbers["<unk>"], bos=pad, eos=numbers["</s>"])
    table = [*pieces, _PAD]
    if vocabulary.suffix == ".spm":
        return splitter(file, "sentencepiece", vocabulary)(table, specials)
    if (model := file.with_name(f"{side}.spm")).is_file():  # OPUS-MT, where a text may begin with >>code<<
        return TableTokenizer(_checked_spm(model), table, specials, codes=True)
    codes = file.with_name(f"{side}.bpe")
    return splitter(file, "codes" if codes.is_file() else "words", codes if codes.is_file() else None)(table, specials)


def _checked_spm(path: Path) -> bytes:
    _spm_pieces(path)
    return path.read_bytes()


def _spm_pieces(path: Path) -> list[str]:
    processor: Any = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
        return [str(processor.IdToPiece(number)) for number in range(processor.vocab_size())]
    except (RuntimeError, OSError):
        raise ModelFolderError(f"{path}: not a SentencePiece model (truncated or damaged)") from None


def _yaml_pieces(path: Path) -> list[str]:
    try:
        # The base loader: a piece such as `yes`, `null` or `1.5` is text.
        table = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        numbers = {str(piece): int(number) for piece, number in table.items()}
    except (yaml.YAMLError, ValueError, AttributeError, TypeError):
        raise ModelFolderError(f"{path}: not a vocabulary (`piece: number` in YAML); get the file again") from None
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ModelFolderError(f"{path}: its numbers are not 0, 1, 2, …; the file is damaged: get it again")
    return sorted(numbers, key=numbers.__getitem__)


_VOCABULARIES: dict[str, Callable[[Path], list[str]]] = {
    ".spm": _spm_pieces,
    ".yml": _yaml_pieces,
    ".yaml": _yaml_pieces,
}


# -- how it generates


def _decoding(file: Path, decoder: Mapping[str, Any]) -> dict[str, Any]:
    """marian-decoder's own defaults, and what its YAML says: a beam that narrows, scores over length^normalize."""
    try:
        alpha, beams = float(decoder.get("normalize") or 0.0), int(decoder.get("beam-size") or 12)
        ratio = float(decoder.get("max-length-factor") or 3.0)
    except (TypeError, ValueError):
        raise ModelFolderError(
            f"{file}: normalize, beam-size and max-length-factor in its decoder.yml must be numbers"
        ) from None
    penalty = {"length_penalty": "power", "length_alpha": alpha} if alpha else {"length_penalty": "none"}
    return {
        "beam_size": beams,
        **penalty,
        "stop": "first_k",
        "max_length_ratio": ratio,
        "max_length_extra": max(1, round(ratio)),  # it counts the source's </s>
        "forbidden_tokens": (_PAD,) if decoder.get("allow-unk") else (_PAD, "<unk>"),
    }


def _unmapped(decoder: Mapping[str, Any]) -> list[str]:
    idle = {"word-penalty": (0, 0.0), "shortlist": ([], ["false"])}
    return [f"{name} = {decoder[name]}" for name, values in idle.items() if decoder.get(name) not in (None, *values)]
