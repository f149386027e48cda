"""The page as one file: index.html with style sheet, modules and a trace inside, for offline files and notebooks.

Knows nothing about what is in a trace: it takes its JSON. The modules are joined by rules that hold for our own modules
and the vendored ones, not for all of JavaScript: imports and exports stand at the start of a line (or of a minified
file), name relative paths, and do not run in circles. Whatever else it meets is an error here, never a broken page.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path

__all__ = ["STATIC", "notebook_frame", "single_page"]

STATIC = Path(__file__).resolve().parent / "static"
"""The page's files, as a server gives them out."""

NAME = r"[\w$]+"
IMPORT = re.compile(
    rf'^import\s*(?:(?P<all>{NAME})|\{{(?P<names>[^}}]*)\}})\s*from\s*"(?P<path>[^"]+)";?', re.MULTILINE
)
EXPORT_NAMED = re.compile(rf"^export (?=(?:const|let|class|function|async function)\s+({NAME}))", re.MULTILINE)
EXPORT_DEFAULT = re.compile(r"(?:^|(?<=[;}]))export default\s*", re.MULTILINE)
EXPORT_LIST = re.compile(r"(?:^|(?<=[;}]))export\s*\{([^}]*)\};?", re.MULTILINE)
STYLE = re.compile(r'<link rel="stylesheet" href="\./([^"]+)" ?/?>')
SCRIPT = re.compile(r'<script type="module" src="\./([^"]+)"></script>')


def single_page(trace_json: str) -> str:
    """The whole page with this trace document in it; it makes no request."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    page = STYLE.sub(lambda found: f"<style>\n{(STATIC / found[1]).read_text(encoding='utf-8')}</style>", page)
    # In JSON, < occurs only inside strings, where it may be written so; then no text can end the element.
    document = trace_json.replace("<", "\\u003c")
    data = f'<script type="application/json" id="pellucid-trace">{document}</script>\n    '
    return SCRIPT.sub(lambda found: data + f'<script type="module">\n{_bundle(found[1])}</script>', page)


def notebook_frame(page: str, height: int = 760) -> str:
    """A whole page as a frame that may run its scripts and nothing else, for a notebook's cell."""
    return (
        f'<iframe sandbox="allow-scripts" title="pellucid" style="width:100%;height:{height}px;border:0" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def _bundle(entry: str) -> str:
    """The entry module and all that it imports, each as a function that is called once, in order of need."""
    written: dict[str, str] = {}

    def visit(path: str, above: tuple[str, ...]) -> None:
        assert path not in above, f"{path} imports itself through {above}"
        if path in written:
            return
        source = (STATIC / path).read_text(encoding="utf-8")
        for found in IMPORT.finditer(source):
            visit(_resolved(path, found["path"]), (*above, path))
        written[path] = _as_function(path, source)

    visit(entry, ())
    script = "const modules = {};\n" + "\n".join(written.values())
    assert "</script" not in script and "<!--" not in script, "a module would end the element that it is written into"
    return script


def _resolved(path: str, target: str) -> str:
    assert target.startswith("."), f"{path} imports {target}, which is not a relative path"
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _as_function(path: str, source: str) -> str:
    exported: dict[str, str] = {}

    def imported(found: re.Match[str]) -> str:
        module = f'modules["{_resolved(path, found["path"])}"]'
        if found["all"]:
            return f"const {found['all']} = {module}.default;"
        names = re.sub(r"\s+as\s+", ": ", found["names"])
        return f"const {{{names}}} = {module};"

    def listed(found: re.Match[str]) -> str:
        for name in filter(None, map(str.strip, found[1].split(","))):
            inner, _, outer = name.partition(" as ")
            exported[outer or inner] = inner
        return ""

    def named(found: re.Match[str]) -> str:
        exported[found[1]] = found[1]
        return ""

    def default(found: re.Match[str]) -> str:
        exported["default"] = "exportedDefault"
        return "const exportedDefault = "

    body = IMPORT.sub(imported, source)
    for pattern, replace in ((EXPORT_LIST, listed), (EXPORT_NAMED, named), (EXPORT_DEFAULT, default)):
        body = pattern.sub(replace, body)
    left = re.search(r"(?:^|(?<=[;}]))(?:import\s*[\w{\"]|export\b).*", body, re.MULTILINE)
    assert left is None, f"{path}: cannot join {left[0]!r}" if left else ""
    names = ", ".join(f"{outer}: {inner}" for outer, inner in exported.items())
    return f'modules["{path}"] = (() => {{\n{body.rstrip()}\nreturn {{ {names} }};\n}})();'
