"""What every group of settings shares: its base class, reading it from YAML, and saying in a sentence what is wrong.

This file knows no setting; those are in config.py. It imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pellucid.errors import ConfigError

__all__ = ["Settings", "explain", "fields_of", "group_of", "has_names", "merged", "read_override", "read_yaml"]


class Settings(BaseModel):
    """Base of all groups of settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: Any) -> Any:
        # YAML reads yes, no, on and off as booleans, and Python's booleans are integers: `seed: yes` would be 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("no_boolean", "expected a value, not true or false")
        return value


def explain(error: ValidationError, settings: type[Settings]) -> str:
    """The first problem of a validation error as one sentence naming the setting, its value and what is allowed."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {'.'.join(location)}; {_hint(settings, location)}"
    name, group = _named(settings, location)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {message}" if name else message
    if group:
        message = f"expected a group of settings ({', '.join(group.model_fields)})"
    return f"{name or 'settings'} = {problem['input']!r}: {message[:1].lower()}{message[1:]}"


def fields_of(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and pydantic field of every setting, and of every group before the settings that are in it."""
    for name, field in settings.model_fields.items():
        yield prefix + name, field
        if group := group_of(field):
            yield from fields_of(group, f"{prefix}{name}.{'NAME.' if has_names(field) else ''}")


def group_of(field: FieldInfo) -> type[Settings] | None:
    """The group of settings that a field holds; ``None`` where it holds a plain value."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Settings)), None)


def has_names(field: FieldInfo) -> bool:
    """Whether a field holds any number of groups, each by a name that a person chose."""
    return get_origin(field.annotation) is dict


def read_yaml(path: Path) -> dict[str, Any]:
    """The nested settings in a YAML file; an empty file has none.

    Raises:
        ConfigError: no such file, not readable, not YAML (with the line), a key given twice, or not settings.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config file ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no text; a malformed number such as 0x_
        raise ConfigError(f"{path}: not a YAML file in UTF-8 ({str(error).splitlines()[0]})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings (key: value), found {type(values).__name__}")
    return values


def read_override(override: str) -> dict[str, Any]:
    """The nested settings of one ``key.sub=value``; the value is YAML, and nothing after the ``=`` means null."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. model.hidden_size=512")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` with the settings of ``new`` laid over it, group by group; neither is changed."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _hint(settings: type[Settings], location: list[str]) -> str:
    """What may have been meant by an unknown setting: one of the same name elsewhere, or the nearest of its group."""
    *path, last = location
    _, group = _named(settings, path)
    known = list((group or settings).model_fields)
    meant = [name for name, _ in fields_of(settings) if name.split(".")[-1] == last]
    meant = meant or [".".join([*path, name]) for name in difflib.get_close_matches(last, known, n=1, cutoff=0.5)]
    return f"did you mean {' or '.join(meant)}?" if meant else f"known here: {', '.join(known)}"


def _named(settings: type[Settings], location: list[str]) -> tuple[str, type[Settings] | None]:
    """The dotted name at a validation error's location, and the group of settings that is there (None: a plain value).

    Pydantic adds the member of a union that it tried; what lies below a plain value is therefore cut off.
    """
    group: type[Settings] | None = settings
    names: list[str] = []
    named: type[Settings] | None = None  # whose name comes next
    for name in location:
        names.append(name)
        if named is not None:
            group, named = named, None
            continue
        if group is None:
            names.pop()
            break
        field = group.model_fields.get(name)
        group = group_of(field) if field else None
        if field is not None and has_names(field):
            group, named = None, group
    return ".".join(names), group


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with two differences, both for people who write configs by hand.

    A key given twice is an error (plain YAML keeps the last one in silence), and dates are text (`output=2026-01-31`).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key_node.value} is given twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
