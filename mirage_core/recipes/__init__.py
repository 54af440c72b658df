"""Recipes: one YAML each, read into settings; a key or a name that is not known is refused with the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mirage_core.config import Settings
from mirage_core.errors import SettingsError
from mirage_core.recipes.keys import check_keys, explain, nearest
from mirage_core.recipes.task_file import beside, with_task

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")
LARGEST = 1_000_000


def names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Settings:
    """Read a recipe by its name, or a YAML file, and apply overrides (``"a.b=c"`` with c in YAML, or dotted keys).

    A YAML file may say ``extends: tiny`` (a recipe, or a file beside it) and then holds only what differs. The file
    of ``problems.task`` is looked for beside the recipe that names it, and its digest becomes part of the settings.
    Raises SettingsError naming the full dotted path, what was got and what was expected.
    """
    path = _find(str(name_or_path), Path.cwd())
    data = {**_resolved(path, ()), **_named(path)}
    for dotted, value in _pairs(overrides):
        data = merge(data, _nested(dotted, value))
    check_keys(data, Settings)
    try:
        return with_task(Settings.model_validate(data))
    except ValidationError as error:
        lines = "\n".join(explain(error, Settings) for error in error.errors())
        raise SettingsError(f"the settings of recipe {data.get('recipe')} are not valid:\n{lines}") from error


def dump(settings: Settings) -> str:
    """Settings as YAML that ``load`` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the other's values; mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in other.items():
        there = merged.get(key)
        merged[key] = merge(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return merged


def _find(name: str, beside: Path) -> Path:
    """The file of a recipe's name or of a path; SettingsError names the nearest known recipe."""
    if name in names():
        return FOLDER / f"{name}.yaml"
    path = (beside / Path(name).expanduser()).resolve()
    if path.is_file():
        return path
    looks_like_path = "/" in name or name.endswith(SUFFIXES)
    raise SettingsError(
        f"there is no recipe file {path}: give the path of a YAML file, or one of {', '.join(names())}"
        if looks_like_path
        else f"got the recipe {name!r}, expected one of {', '.join(names())}, or a YAML file{nearest(name, names())}"
    )


def _resolved(path: Path, before: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's data on top of the recipe it extends."""
    if path in before:
        chain = " -> ".join(found.name for found in (*before, path))
        raise SettingsError(f"recipes extend one another in a circle: {chain}; take one 'extends' out")
    data = beside(read_yaml(path), path.parent)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise SettingsError(f"{path}: extends is {parent!r}, expected the name of a recipe or a YAML file")
    return merge(_resolved(_find(parent, path.parent), (*before, path)), data)


def _named(path: Path) -> dict[str, str]:
    """A recipe that does not say its name has its file's; it never has the name of the one it extends."""
    return {} if "recipe" in read_yaml(path) else {"recipe": path.stem}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; SettingsError for one that is not, and for keys that are given twice."""
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path} has more than {LARGEST} bytes: that is not a recipe")
        text = path.read_text(encoding="utf-8")
        _refuse_repeated(yaml.compose(text, Loader=yaml.SafeLoader), str(path))
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"the recipe {path} holds {type(data).__name__}, expected settings such as 'seed: 42'")
    return data


def _refuse_repeated(node: yaml.Node | None, where: str) -> None:
    """YAML lets the last of two equal keys win, silently; here that is an error."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise SettingsError(f"{where}, line {key.start_mark.line + 1}: {key.value} is given twice; keep one")
            seen.add(key.value)
            _refuse_repeated(value, where)


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    return [_parse(text) for text in overrides]


def _parse(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise SettingsError(f"got the override {text!r}, expected a.b=c, for example grounding.steps=100")
    try:
        return dotted.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"the value of the override {text!r} is not YAML: {error}") from error


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested
