"""``info`` measures the cache without computing with a model's weights, which may be large."""

from __future__ import annotations

from pathlib import Path

from hf_twins import make_twin

import pellucid
from pellucid.commands.info import describe


def test_the_cache_is_measured_on_shapes_alone(tiny_run: Path, tmp_path: Path) -> None:
    make_twin("t5", tmp_path)
    for folder in (tiny_run, tmp_path):
        model = pellucid.load(folder, "cpu")
        expected = describe(model)["kv_cache"]
        cache = expected["self_attention_per_target_token"]
        assert cache["measured"] == cache["formula"] > 0
        model.model.to("meta")  # no number is left
        assert describe(model)["kv_cache"] == expected
