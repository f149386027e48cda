"""A model with its tokenizers as a checkpoint folder that transformers loads.

Joins the tables: which family, which weights, which tokenizer files, which generation settings. transformers is not
needed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from pellucid.config import DecodingConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.files import replace_folder, write_json
from pellucid.interop.huggingface.architecture import rows_of
from pellucid.interop.huggingface.expression import choose_target, rewritten
from pellucid.interop.huggingface.files import CONFIG_FILE
from pellucid.interop.huggingface.generation_out import generation_document
from pellucid.interop.huggingface.table import export_weights
from pellucid.interop.huggingface.tokenizers_out import check_rules, write_tokenizers
from pellucid.model.storage import WEIGHTS_FILE
from pellucid.model.transformer import EncoderDecoder

__all__ = ["export_checkpoint"]


def export_checkpoint(
    folder: Path,
    model: EncoderDecoder,
    source: Tokenizer,
    target: Tokenizer,
    decoding: DecodingConfig,
    rules: TextRules | None = None,
) -> tuple[str, list[str]]:
    """Write a checkpoint folder, or nothing at all.

    Args:
        folder: is made, or replaced as a whole.
        model: of any architecture that a family can hold; its weights are written in float32.
        source, target: its tokenizers, the same object where there is one.
        decoding: becomes the checkpoint's generation settings.
        rules: for text in front of the tokenizers; no checkpoint can hold any.

    Returns:
        The family's name, and generation settings that have no counterpart there, as ``name = value``.

    Raises:
        ConfigError: an architecture that no family can hold, tokenizers that transformers has no class for, or rules
            for text.
    """
    check_rules(rules or TextRules())
    kind = choose_target(model.config, source.pad_id)
    longest = model.config.max_positions if model.config.positions == "learned" else None
    numbers = {piece: number for number, piece in enumerate(target.pieces(range(target.vocab_size)))}
    generation, left = generation_document(decoding, numbers.get, target.suppressed_ids, longest)
    special = {
        "pad_token_id": target.pad_id,
        "bos_token_id": target.bos_id,
        "eos_token_id": target.eos_id,
        "decoder_start_token_id": target.bos_id,
    }
    document = {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "is_encoder_decoder": True,
        "dtype": "float32",
        "vocab_size": model.source_vocab_size,
        **({"decoder_vocab_size": model.target_vocab_size} if kind.model_type == "marian" else {}),
        **kind.document(model.config),
        **special,
        # Some families' own defaults would force a last token.
        "forced_eos_token_id": None,
    }
    plain = rewritten(model, kind)
    rows = rows_of(kind.family, plain.config)
    tensors = export_weights(plain, rows) | kind.tables(plain.config)
    if plain.config.tied_embeddings == "inputs":  # transformers shares all three matrices or, in the file, none
        tensors |= {name: tensors[rows[0].there[0]].clone() for name in rows[0].there[1:]}
    with replace_folder(folder) as temporary:
        write_tokenizers(temporary, source, target)
        weights = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
        (temporary / WEIGHTS_FILE).write_bytes(save(weights, metadata={"format": "pt"}))  # which they ask for
        write_json(temporary / CONFIG_FILE, document)
        write_json(temporary / "generation_config.json", {**special, **generation})
    return kind.family.title, left
