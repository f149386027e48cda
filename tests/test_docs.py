"""The generated pages are what the code says, in both languages, and the check would notice if they were not."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from conftest import ROOT


def test_the_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, "scripts/docs.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stderr, result.returncode) == ("", 0), result.stdout
    assert result.stdout.endswith(" pages: up to date\n")


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, working on a copy of docs/."""
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", folder)
    monkeypatch.setattr(module, "DOCS", folder)
    monkeypatch.setattr(module, "TRANSLATIONS", folder / "zh" / "settings.yaml")
    return module


def run(docs: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    docs.sys = type("", (), {"argv": ["docs.py", *arguments]})
    status = docs.main()
    return status, capsys.readouterr().out.splitlines()


def test_a_changed_a_missing_and_a_superfluous_page_are_noticed_and_mended(
    docs: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, info, extra = (docs.DOCS / name for name in ("settings.zh.md", "commands/info.md", "commands/old.md"))
    before = settings.read_text(encoding="utf-8")
    settings.write_text(before.replace("8000", "9000"), encoding="utf-8")
    info.unlink()
    extra.touch()
    assert run(docs, capsys, "--check") == (
        1,
        [
            "docs/commands/info.md is not what the code says: run make docs",
            "docs/settings.zh.md is not what the code says: run make docs",
            "docs/commands/old.md is about no command: run make docs",
        ],
    )
    assert run(docs, capsys)[0] == 0
    assert (settings.read_text(encoding="utf-8"), info.exists(), extra.exists()) == (before, True, False)
    assert run(docs, capsys, "--check")[0] == 0


def test_a_missing_and_a_superfluous_translation_are_noticed(
    docs: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    text = docs.TRANSLATIONS.read_text(encoding="utf-8")
    docs.TRANSLATIONS.write_text(text.replace("  model.norm:", "  model.nrom:"), encoding="utf-8")
    status, problems = run(docs, capsys, "--check")
    assert status == 1
    assert problems[:2] == [
        "docs/zh/settings.yaml: settings.model.norm is missing",
        "docs/zh/settings.yaml: settings.model.nrom is not in the code",
    ]
    assert run(docs, capsys)[0] == 1


def test_what_a_table_says_about_a_setting() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for row in (
        "| `norm` | `layernorm`, `rmsnorm` | `layernorm` | Normalisation. |",
        "| `vocab_size` | integer [16, 1000000] | `8000` |",
        "| `character_coverage` | number (0.9, 1] | `1.0` |",
        "| `num_kv_heads` | integer ≥ 1 | — |",
        "| `max_grad_norm` | number > 0 | `1.0` |",
        "| `joint` | `true`, `false` | `true` |",
        "| `source_column` | integer ≥ 0 or text | `0` |",
        "| `train` | group, see below | — |",
        "| `ff_size` | `512` | `1024` | `2048` |",
        "Most tokens to generate, &lt;/s> included",
    ):
        assert row in page
    assert page.count("## `data.train`, `data.dev`, `data.test`") == 1
    assert "| `hidden_size` | 整数 ≥ 1 | `256` | 残差流的宽度 M。 |" in (ROOT / "docs" / "settings.zh.md").read_text(
        encoding="utf-8"
    )


def test_no_page_has_a_number_that_is_still_to_be_filled_in() -> None:
    pages = [path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0][0] != "."]
    assert ROOT / "README.md" in pages
    assert [str(path.relative_to(ROOT)) for path in pages if "@@" in path.read_text(encoding="utf-8")] == []
