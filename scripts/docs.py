"""Write the pages in docs/ that are made from the code.

These are the settings, one page for each command, in both languages, and explorer.html, the explorer's page around the
trace that comes with pellucid.

    python scripts/docs.py            write them
    python scripts/docs.py --check    exit 1 and say why, if a page is not what would be written

English comes from the code itself, Chinese from docs/zh/settings.yaml; an English text without a Chinese one, and a
Chinese one without an English one, are errors.
"""

from __future__ import annotations

import gzip
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from pellucid.bundled import BUNDLED, RECORDED
from pellucid.cli import app
from pellucid.commands.options import setting_of
from pellucid.config import PRESETS, Config, CorpusConfig, ModelConfig, NamedCorpusConfig
from pellucid.explorer.page import single_page
from pellucid.settings import Settings, fields_of, group_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
TRANSLATIONS = DOCS / "zh" / "settings.yaml"
CORPORA = ("data.train", "data.dev", "data.test")  # three groups of one kind, described once
OF_NAMED = "data.corpora.NAME.dev"  # another one

WORDS = {
    "en": {
        "other": "中文", "and": ", ", "or": " or ", "integer": "integer", "number": "number", "string": "text",
        "boolean": "`true`, `false`", "list": "list of", "group": "group, see below",
        "setting": "setting", "allowed": "allowed",
        "default": "default", "meaning": "meaning", "argument": "argument", "option": "option",
        "required": "required", "commands": "Commands", "presets": "Presets: what each `preset` sets.",
        "made": "Made by `make docs` from the code; edit the text there.",
        "settings": "Settings",
        "how": "Every setting of a training run. Write them in a YAML file, give them as `key=value`, or both:\n\n"
        "```\npellucid train run.yaml model.preset=tiny training.max_updates=1000\n```\n\n"
        "`pellucid train --print-config` prints all of them, resolved. What is not given has its default. An unknown "
        "setting, a value out of range, and settings that contradict each other are refused before anything starts.",
    },
    "zh": {
        "other": "English", "and": "、", "or": " 或", "integer": "整数", "number": "数", "string": "文本",
        "boolean": "`true`、`false`", "list": "列表，元素为", "group": "一组设置，见下文",
        "setting": "设置", "allowed": "取值",
        "default": "默认值", "meaning": "含义", "argument": "参数", "option": "选项",
        "required": "必填", "commands": "命令", "presets": "预设：每个 `preset` 设定的值。",
        "made": "本页由 `make docs` 根据代码和 docs/zh/settings.yaml 生成，请在那里修改文字。",
        "settings": "设置",
        "how": "一次训练的全部设置。可以写在 YAML 文件里，可以用 `key=value` 给出，也可以两者并用：\n\n"
        "```\npellucid train run.yaml model.preset=tiny training.max_updates=1000\n```\n\n"
        "`pellucid train --print-config` 会打印出所有设置的最终值。没有给出的设置取默认值。"
        "未知的设置、超出范围的值、互相矛盾的设置，都会在任何计算开始之前被拒绝。",
    },
}  # fmt: skip


class Writer:
    """Makes all pages of one language.

    Attributes:
        missing: what has no translation.
        unused: what has a translation but is nowhere in the code.
    """

    def __init__(self, language: str) -> None:
        self.words = WORDS[language]
        self.suffix, self.other_suffix = (".md", ".zh.md") if language == "en" else (".zh.md", ".md")
        self.missing: dict[str, None] = {}
        self._translations: dict[str, str] | None = None
        if language != "en":
            self._translations = dict(_flat(yaml.safe_load(TRANSLATIONS.read_text(encoding="utf-8"))))
        self.unused = set(self._translations or ())

    def pages(self) -> Iterator[tuple[Path, str]]:
        """Every page: where it goes, and its text."""
        yield self._page("settings", self.words["settings"], self._settings())
        command: Any = get_command(app)
        lines = [_plain(self._told("commands.pellucid.help", command.help)), ""]
        for name, child in command.commands.items():
            yield self._page(f"commands/{name}", f"pellucid {name}", self._command(name, child))
            first = self._told(f"commands.{name}.help", child.help).split("\n")[0]
            lines.append(f"- [`pellucid {name}`]({name}{self.suffix}) — {_plain(first)}")
        yield self._page("commands/README", self.words["commands"], lines)

    def _page(self, name: str, title: str, lines: list[str]) -> tuple[Path, str]:
        other = f"[{self.words['other']}]({name.split('/')[-1]}{self.other_suffix})"
        text = "\n".join([f"# {title}", "", other, "", *lines, "", f"<!-- {self.words['made']} -->", ""])
        return DOCS / f"{name}{self.suffix}", text

    def _told(self, key: str, english: str | None) -> str:
        """The English text, or its translation."""
        text = inspect.cleandoc(english or "").partition("\f")[0].strip()
        if self._translations is None or not text:
            return text
        self.unused.discard(key)
        if key not in self._translations:
            self.missing[key] = None
        return self._translations.get(key, text)

    # -- settings

    def _settings(self) -> list[str]:
        lines = [self.words["how"]]
        groups: list[tuple[str, type[Settings]]] = [("", Config)]
        groups += [(name, group) for name, field in fields_of(Config) if (group := group_of(field))]
        for name, group in groups:
            if name not in (*CORPORA[1:], OF_NAMED):
                lines += ["", *self._group(name, group)]
        return lines

    def _group(self, name: str, group: type[Settings]) -> list[str]:
        names = CORPORA if name in CORPORA else (f"{name}.NAME" if group is NamedCorpusConfig else name,)
        lines = [f"## {self.words['and'].join(f'`{each}`' for each in names)}", ""] if name else []
        lines += [self._told(f"groups.{name or 'run'}", group.__doc__), ""]
        properties = group.model_json_schema()["properties"]
        rows = []
        for key, field in group.model_fields.items():
            full = f"{name}.{key}".lstrip(".")
            if group_of(field) and not name:
                continue  # the groups follow, each with a table of its own
            if group is NamedCorpusConfig and key in CorpusConfig.model_fields:
                continue  # it has all that one corpus has
            allowed = self.words["group"] if group_of(field) else self._allowed(properties[key])
            rows.append([f"`{key}`", allowed, _value(field.default), self._told(f"settings.{full}", field.description)])
        lines += _table([self.words[word] for word in ("setting", "allowed", "default", "meaning")], rows)
        return lines + self._presets() if group is ModelConfig else lines

    def _presets(self) -> list[str]:
        keys = list(dict.fromkeys(key for preset in PRESETS.values() for key in preset))
        rows = [[f"`{key}`", *(_value(preset.get(key)) for preset in PRESETS.values())] for key in keys]
        head = [self.words["setting"], *(f"`{name}`" for name in PRESETS)]
        return ["", self.words["presets"], "", *_table(head, rows)]

    def _allowed(self, schema: dict[str, Any]) -> str:
        """What a value may be, from its JSON schema."""
        if "anyOf" in schema:
            kinds = [self._allowed(kind) for kind in schema["anyOf"] if kind.get("type") != "null"]
            return self.words["or"].join(kinds)
        if "enum" in schema:
            return self.words["and"].join(f"`{value}`" for value in schema["enum"])
        if schema["type"] == "array":
            return f"{self.words['list']} {self._allowed(schema['items'])}"
        return f"{self.words[schema['type']]} {_interval(schema)}".strip()

    # -- commands

    def _command(self, name: str, command: Any) -> list[str]:
        """What there is to say of a command, or of a group and each of its commands."""
        help_text = _plain(self._told(f"commands.{name}.help", command.help))
        if not hasattr(command, "commands"):
            return [*self._usage(name, command), "", help_text, *self._parameters(name, command)]
        lines = [help_text]
        for key, child in command.commands.items():
            lines += ["", f"## pellucid {name} {key}", "", *self._command(f"{name} {key}", child)]
        return lines

    def _usage(self, name: str, command: Any) -> list[str]:
        context = command.context_class(command, info_name=f"pellucid {name}")
        return ["```", " ".join(["pellucid", name, *command.collect_usage_pieces(context)]), "```"]

    def _parameters(self, name: str, command: Any) -> list[str]:
        """A table of the arguments, and one of the options."""
        lines: list[str] = []
        context = command.context_class(command, info_name=f"pellucid {name}")
        settings = {id(parameter): setting_of(parameter.help) for parameter in command.params}
        command.get_help(context)  # looks up the help of the options that are settings
        for kind in ("argument", "option"):
            rows = []
            for parameter in command.params:
                if parameter.param_type_name != kind or getattr(parameter, "hidden", False):
                    continue
                setting = settings[id(parameter)]
                key = f"settings.{_first_corpus(setting)}" if setting else f"commands.{name}.{parameter.name}"
                shown = parameter.get_help_record(context)[0].partition(" <")[0]
                default = self.words["required"] if parameter.required else _value(parameter.default or None)
                rows.append([f"`{shown}`", default, self._told(key, parameter.help)])
            if rows:
                lines += ["", *_table([self.words[word] for word in (kind, "default", "meaning")], rows)]
        return lines


def _first_corpus(setting: str) -> str:
    for corpus in CORPORA:
        setting = setting.replace(f"{corpus}.", f"{CORPORA[0]}.")
    return setting


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value.strip()


def _interval(schema: dict[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    left, right = ("[" if "minimum" in schema else "("), ("]" if "maximum" in schema else ")")
    if low is not None and high is not None:
        return f"{left}{low:.10g}, {high:.10g}{right}"
    return "" if low is None else f"{'≥' if 'minimum' in schema else '>'} {low:.10g}"


def _value(value: Any) -> str:
    if value is None or value == {}:
        return "—"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _plain(text: str) -> str:
    """Text for Markdown: "<" would begin HTML, as in "</s>", except between backticks."""
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(text.split("`")))


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        # A bar would end the cell.
        plain = [" ".join(_plain(cell).replace("|", "\\|").split()) for cell in cells]
        return f"| {' | '.join(plain)} |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _explorer() -> Iterator[tuple[Path, str]]:
    recorded = RECORDED / f"{BUNDLED}.json.gz"
    if recorded.is_file():
        yield DOCS / "explorer.html", single_page(gzip.decompress(recorded.read_bytes()).decode())


def main() -> int:
    """Write or check all pages; the number of problems decides the exit status."""
    check = sys.argv[1:] == ["--check"]
    problems: list[str] = []
    pages: dict[Path, str] = dict(_explorer())
    for language in WORDS:
        writer = Writer(language)
        pages.update(writer.pages())
        problems += [f"docs/zh/settings.yaml: {key} is missing" for key in writer.missing]
        problems += [f"docs/zh/settings.yaml: {key} is not in the code" for key in sorted(writer.unused)]
    stale = [path for path in (DOCS / "commands").glob("*.md") if path not in pages]
    for path, text in pages.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            problems.append(f"{path.relative_to(DOCS.parent)} is not what the code says: run make docs")
    for path in stale:
        if check:
            problems.append(f"{path.relative_to(DOCS.parent)} is about no command: run make docs")
        else:
            path.unlink()
    print("\n".join(problems) or f"{len(pages)} pages: {'up to date' if check else 'written'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
