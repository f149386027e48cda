"""BERT as an encoder alone: states of the last layer are transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hf_twins import make_bert
from safetensors.torch import load_file, save_file

import pellucid
from pellucid.errors import LengthError, ModelFolderError
from pellucid.interop.huggingface.bert import load_encoder


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
@torch.inference_mode()
def test_states_are_the_same(tmp_path: Path, name: str) -> None:
    theirs = make_bert(tmp_path, name)
    ours, _ = load_encoder(tmp_path)
    tokens, types = torch.randint(3, 50, (3, 11)), torch.randint(0, 3, (3, 11))
    mask = torch.arange(11)[None] < torch.tensor([11, 4, 7])[:, None]
    body = theirs if name == "BertModel" else theirs.bert
    expected = body(input_ids=tokens, attention_mask=mask.long(), token_type_ids=types).last_hidden_state[mask]
    found = ours(tokens, mask, types)[mask]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    plain = body(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[mask]
    assert (ours(tokens, mask)[mask] - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert (plain - expected).abs().max() > 0.01  # types say something


def test_the_oldest_files_call_norms_by_greek_letters(tmp_path: Path) -> None:
    make_bert(tmp_path)
    expected = load_encoder(tmp_path)[0].state_dict()
    path = tmp_path / "model.safetensors"
    greek = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(path)
    for plain, letter in greek.items():
        tensors = {f"bert.{name.removeprefix('bert.').replace(plain, letter)}": t for name, t in tensors.items()}
    save_file(tensors, path)
    found = load_encoder(tmp_path)[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    make_bert(tmp_path)
    with pytest.raises(ModelFolderError, match="BERT is an encoder alone and generates nothing"):
        pellucid.load(tmp_path, "cpu")
    model, _ = load_encoder(tmp_path)
    with pytest.raises(LengthError, match="does not fit the 20 learned positions"):
        model(torch.ones(1, 21, dtype=torch.int64), torch.ones(1, 21, dtype=torch.bool))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "position_embedding_type": "relative_key"}))
    with pytest.raises(ModelFolderError, match="position_embedding_type = relative_key is not supported"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(
        ModelFolderError, match=r"encoder\.layer\.2\.attention\.self\.query\.weight is not part of this"
    ):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(ModelFolderError, match="'roberta' are not supported as an encoder alone; supported: bert"):
        load_encoder(tmp_path)
