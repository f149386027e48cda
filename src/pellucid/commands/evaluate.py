"""``pellucid evaluate``: translate a corpus and compare with its references.

Knows nothing of models or of how metrics are computed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.commands import options

__all__ = ["evaluate"]


def evaluate(
    model: options.ModelFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
) -> None:
    """Translate a corpus and compare with its references."""
