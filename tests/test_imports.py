"""The house stands: who may import whom, who may import torch, and what is imported only when it is needed.

The map of the floors is the drawing at the top of docs/architecture.md; it is read from there, so that it cannot drift.
Everything else is read from the source (AST), without importing it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT

SOURCE = ROOT / "src" / "pellucid"

# A later way of running a model needs none of these to be importable with torch, and `pellucid --help` must be quick.
TORCH_FREE = (
    *("__init__.py", "__main__.py", "errors.py", "settings.py", "config.py", "files.py", "trace.py", "cli.py"),
    *("commands/", "data/corpus.py", "data/tokenizer.py", "data/dataset.py", "data/hsk.py", "data/fetch.py"),
    *("bundled.py", "machine.py", "model/weights.py", "model/adapter_config.py", "data/chinese.py"),
    *("native/", "native_loading.py", "native_translator.py", "text_generator.py", "results.py", "model_folder.py"),
    *("interop/huggingface/folder.py", "interop/huggingface/surroundings.py"),
)

# Heavy or optional: imported by one file each, and only when it gets to work.
ON_DEMAND = {
    *("transformers", "ctranslate2", "fastapi", "onnx", "pyarrow", "zstandard", "hsk_sentences_audio", "tensorboardX"),
    "huggingface_hub",
    "matplotlib",
    "opencc",
    "sentencex",
    "starlette",
    "tokenizers",
    "uvicorn",
}


@dataclass(frozen=True)
class Import:
    """One imported module; ``module`` is a file of the package where it is one of ours, else a top-level name."""

    module: str
    line: int
    runs_at_import: bool
    for_types_only: bool


def read_sources() -> dict[str, str]:
    return {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}


def read_floors(page: str, floor: str) -> dict[str, int]:
    """The drawing of the house: file or folder → floor. ``floor`` is the pattern that begins a new floor's lines."""
    drawing = next(block for block in page.split("```") if re.search(floor, block))
    floors: dict[str, int] = {}
    number = -1
    for line in drawing.strip().splitlines():
        if start := re.match(floor, line):
            number = int(start[1])
        names = re.split(r"\s{2,}", re.sub(floor, " ", line).strip())[0]
        for name in re.split(r"[,、]\s*", names):
            if name.endswith((".py", "/")):
                assert name not in floors, f"{name} is drawn twice"
                floors[name] = number
    return floors


def floor_of(file: str, floors: Mapping[str, int]) -> int | None:
    """The floor that a file is drawn on, by itself or with its folder."""
    if file == "__init__.py":
        return min(floors.values())  # the version; what it passes on is fetched when asked for
    if file == "__main__.py":
        return floors["cli.py"]
    return floors.get(file, floors.get(f"{Path(file).parent}/"))


def imports_of(source: str, files: set[str]) -> Iterator[Import]:
    """Everything that a file imports."""

    def visit(node: ast.AST, at_import: bool, types_only: bool) -> Iterator[Import]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module in _modules(node, files):
                yield Import(module, node.lineno, at_import, types_only)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, at_import, True)
            for child in node.orelse:
                yield from visit(child, at_import, types_only)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not inside, types_only)

    yield from visit(ast.parse(source), True, False)


def _modules(node: ast.Import | ast.ImportFrom, files: set[str]) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative imports hide where a name comes from"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = [alias.name for alias in node.names]
    return [_module(name, files) for name in names]


def _module(name: str, files: set[str]) -> str:
    """The longest part of a dotted name that is a file of ours (the rest is something inside it)."""
    package, *parts = name.split(".")
    if package != "pellucid":
        return package
    for end in range(len(parts), -1, -1):
        path = "/".join(parts[:end])
        for file in (f"{path}.py", f"{path}/__init__.py".removeprefix("/")):
            if file in files:
                return "loading.py" if file == "__init__.py" and parts not in ([], ["__version__"]) else file
    raise AssertionError(f"{name} is not a file of the package")


def floor_violations(sources: Mapping[str, str], floors: Mapping[str, int]) -> list[str]:
    """Imports that go up, or sideways into another folder."""
    found = []
    for file, source in sources.items():
        here = floor_of(file, floors)
        for item in imports_of(source, set(sources)):
            there = floor_of(item.module, floors) if item.module in sources else None
            if here is None or there is None or there < here or file == "__init__.py":
                continue
            own_folder = Path(item.module).is_relative_to(Path(file).parent)
            if there > here or not own_folder:
                found.append(f"{file}:{item.line} (floor {here}) imports {item.module} (floor {there})")
    return found


def on_demand_violations(sources: Mapping[str, str]) -> list[str]:
    """Heavy optional libraries imported at a file's top, or by more than one file."""
    found = []
    users: dict[str, str] = {}
    for file, source in sources.items():
        for item in imports_of(source, set(sources)):
            if item.module not in ON_DEMAND:
                continue
            if item.runs_at_import and not item.for_types_only:
                found.append(f"{file}:{item.line} imports {item.module} at its top")
            if users.setdefault(item.module, file) != file:
                found.append(f"{file}:{item.line} imports {item.module}, which is {users[item.module]}'s business")
    return found


def way_to_torch(file: str, sources: Mapping[str, str]) -> list[str]:
    """The chain of imports by which importing ``file`` imports torch; empty if it does not."""
    chains = [[file]]
    seen = {file}
    while chains:
        chain = chains.pop(0)
        packages = [f"{parent}/__init__.py".removeprefix("./") for parent in Path(chain[-1]).parents]
        needed = [item.module for item in imports_of(sources[chain[-1]], set(sources)) if _runs(item)]
        if "torch" in needed:
            return [*chain, "torch"]
        for module in [*packages, *needed]:
            if module in sources and module not in seen:
                seen.add(module)
                chains.append([*chain, module])
    return []


def _runs(item: Import) -> bool:
    return item.runs_at_import and not item.for_types_only


def undescribed(sources: Mapping[str, str]) -> list[str]:
    """Files without a docstring, or without a list of what they offer."""
    found = []
    for file, source in sources.items():
        tree = ast.parse(source)
        if not (ast.get_docstring(tree) or "").strip():
            found.append(f"{file} has no docstring")
        assigned = [
            node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign))
        ]
        bare = all(isinstance(node, ast.Expr) for node in tree.body)  # an __init__.py with nothing but a docstring
        if "__all__" not in [ast.unparse(target) for target in assigned] and not bare:
            found.append(f"{file} has no __all__")
    return found


# -- the package


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources()


@pytest.fixture(scope="module")
def floors() -> dict[str, int]:
    return read_floors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), r"floor (\d)")


def test_both_pages_draw_the_same_house(floors: dict[str, int]) -> None:
    chinese = (ROOT / "docs" / "architecture.zh.md").read_text(encoding="utf-8")
    assert read_floors(chinese, r"第 (\d) 层") == floors
    assert set(floors.values()) == {0, 1, 2, 3, 4}


def test_every_file_is_drawn_and_everything_drawn_is_there(sources: dict[str, str], floors: dict[str, int]) -> None:
    assert [file for file in sources if floor_of(file, floors) is None] == []
    assert [name for name in floors if not (SOURCE / name).exists()] == []


def test_imports_go_down_or_stay_in_their_folder(sources: dict[str, str], floors: dict[str, int]) -> None:
    assert floor_violations(sources, floors) == []


def test_heavy_libraries_are_imported_when_needed_by_the_file_about_them(sources: dict[str, str]) -> None:
    assert on_demand_violations(sources) == []


def test_what_must_do_without_torch_does(sources: dict[str, str]) -> None:
    free = [file for file in sources if file in TORCH_FREE or f"{Path(file).parent}/" in TORCH_FREE]
    assert {name for name in TORCH_FREE if name[-1] != "/"} <= set(free)
    assert [" → ".join(way) for file in free if (way := way_to_torch(file, sources))] == []


def test_every_file_says_what_it_is_about_and_what_it_offers(sources: dict[str, str]) -> None:
    assert undescribed(sources) == []


def test_importing_these_imports_no_torch() -> None:
    # What the source cannot tell: that no other library brings torch along.
    files = [name for name in TORCH_FREE if name.endswith(".py") and name != "__main__.py"]
    modules = [".".join(["pellucid", *Path(file).with_suffix("").parts]).removesuffix(".__init__") for file in files]
    program = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    print(module, "torch" in sys.modules)
"""
    assert printed_by(program).splitlines() == [f"{module} False" for module in modules]


def test_the_public_names_are_there_when_asked_for() -> None:
    names = printed_by("import sys, pellucid; print(pellucid.load, pellucid.Translator, 'torch' in sys.modules)")
    assert re.fullmatch(r"<function load at .*> <class 'pellucid.translator.Translator'> True", names)


def printed_by(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.stdout.strip()


# -- the checks above would notice

HOUSE = """
```
floor 2  cli.py, commands/   the command line
         top.py              more
floor 1  data/               text
         model/              numbers
floor 0  config.py           settings
```
"""
FLOORS = {"cli.py": 2, "commands/": 2, "top.py": 2, "data/": 1, "model/": 1, "config.py": 0}
FILES = ["__init__.py", "cli.py", "commands/a.py", "top.py", "data/__init__.py", "data/a.py", "data/b.py"]
EMPTY = dict.fromkeys([*FILES, "model/a.py", "config.py", "translator.py"], "")


def test_the_drawing_is_read() -> None:
    assert read_floors(HOUSE, r"floor (\d)") == FLOORS


@pytest.mark.parametrize(
    ("file", "line", "verdict"),
    [
        ("data/a.py", "import pellucid.config", None),
        ("data/a.py", "from pellucid import config", None),
        ("data/a.py", "from pellucid import __version__", None),
        ("data/a.py", "from pellucid.data.b import x", None),
        ("data/a.py", "from pellucid.data import b, name", None),
        ("data/a.py", "from pellucid.model.a import x", "data/a.py:1 (floor 1) imports model/a.py (floor 1)"),
        ("data/a.py", "def f():\n  from pellucid.model import a", "data/a.py:2 (floor 1) imports model/a.py (floor 1)"),
        ("data/a.py", "try:\n  import pellucid.top\nfinally:\n  f()", "data/a.py:2 (floor 1) imports top.py (floor 2)"),
        ("config.py", "from pellucid.data import b", "config.py:1 (floor 0) imports data/b.py (floor 1)"),
        ("cli.py", "from pellucid.commands import a", None),
        ("cli.py", "from pellucid import top", None),
        ("commands/a.py", "from pellucid import cli", "commands/a.py:1 (floor 2) imports cli.py (floor 2)"),
        ("__init__.py", "def f():\n  from pellucid import translator", None),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(file: str, line: str, verdict: str | None) -> None:
    expected = [verdict] if verdict else []
    assert floor_violations({**EMPTY, file: line}, FLOORS) == expected


def test_a_name_of_the_package_itself_is_on_the_floor_of_loading() -> None:
    floors = {**FLOORS, "loading.py": 3}
    sources = {**EMPTY, "loading.py": "", "top.py": "from pellucid import load"}
    assert floor_violations(sources, floors) == ["top.py:1 (floor 2) imports loading.py (floor 3)"]


def test_a_heavy_import_in_the_wrong_place_is_found() -> None:
    inside = "def f():\n  import pyarrow.parquet"
    assert on_demand_violations({**EMPTY, "data/a.py": inside}) == []
    assert on_demand_violations({**EMPTY, "data/a.py": "if TYPE_CHECKING:\n  import pyarrow"}) == []
    assert on_demand_violations({**EMPTY, "data/a.py": "from pyarrow import parquet"}) == [
        "data/a.py:1 imports pyarrow at its top"
    ]
    assert on_demand_violations({**EMPTY, "data/a.py": "class A:\n  import pyarrow"}) == [
        "data/a.py:2 imports pyarrow at its top"
    ]
    assert on_demand_violations({**EMPTY, "data/a.py": inside, "data/b.py": inside}) == [
        "data/b.py:2 imports pyarrow, which is data/a.py's business"
    ]


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"data/a.py": "import torch.nn"}, ["data/a.py", "torch"]),
        ({"data/a.py": "from torch import nn"}, ["data/a.py", "torch"]),
        ({"data/a.py": "def f():\n  import torch"}, []),
        ({"data/a.py": "if TYPE_CHECKING:\n  import torch"}, []),
        ({"data/a.py": "if TYPE_CHECKING:\n  import x\nelse:\n  import torch"}, ["data/a.py", "torch"]),
        ({"data/a.py": "import pellucid.data.b", "data/b.py": "import torch"}, ["data/a.py", "data/b.py", "torch"]),
        ({"data/a.py": "def f():\n  import pellucid.data.b", "data/b.py": "import torch"}, []),
        ({"data/__init__.py": "import torch"}, ["data/a.py", "data/__init__.py", "torch"]),
        ({"__init__.py": "import torch"}, ["data/a.py", "__init__.py", "torch"]),
        ({"data/b.py": "import torch"}, []),
    ],
)
def test_a_way_to_torch_is_found(changes: dict[str, str], way: list[str]) -> None:
    assert way_to_torch("data/a.py", {**EMPTY, **changes}) == way


def test_a_file_that_says_nothing_is_found() -> None:
    assert undescribed({"a.py": '"""A."""\n__all__ = ["x"]\nx = 1', "__init__.py": '"""B."""'}) == []
    assert undescribed({"a.py": '"""A."""\n__all__: list[str] = []\nx = 1'}) == []
    assert undescribed({"a.py": '__all__ = ["x"]\nx = 1'}) == ["a.py has no docstring"]
    assert undescribed({"a.py": '"""A."""\nx = 1'}) == ["a.py has no __all__"]
