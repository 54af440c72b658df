"""Recipes: one YAML file each, read into settings; an unknown key or name is refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mirage_core.config import Settings, as_recipe
from mirage_core.errors import SettingsError
from mirage_core.recipes.keys import check_keys, explain, nearest
from mirage_core.recipes.renames import in_current_words, nested
from mirage_core.recipes.task_file import beside, with_task

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")
LARGEST = 1_000_000
_MOST_VALUES = 100_000
_DEEPEST = 50
_SHORT = 1_000
"""A text of so few characters is not nested too deeply."""
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a tenth of the time


def names() -> list[str]:
    """Return the recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Settings:
    """Read a recipe by its name, or a YAML file, and apply overrides (``"a.b=c"`` with c in YAML, or dotted keys).

    A YAML file may contain ``extends: tiny`` (a recipe, or a file beside it) and then holds only the differences. The
    file of ``problems.task`` is relative to the recipe that names it, and its digest becomes part of the settings.
    SettingsError names the full dotted path, the value and what is expected.
    """
    path = _find(str(name_or_path), Path.cwd())
    data = {**_resolved(path, ()), **_named(path)}
    return with_task(validated(data, overrides, f"recipe {data.get('recipe', path.stem)}"))


def validated(data: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any], name: str) -> Settings:
    """Validate a recipe's data (with current names) with overrides applied one after another."""
    pairs = [nested(dotted, value) for dotted, value in _pairs(overrides)]
    in_current_words(reduce(merge, pairs, {}), "--set")  # warns once, refuses an old name beside its new one
    data = reduce(merge, (in_current_words(pair, "--set", warn=False) for pair in pairs), data)
    check_keys(data, Settings)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(explain(detail, Settings) for detail in error.errors())
        raise SettingsError(f"the settings of {name} are not valid:\n{lines}") from error


def dump(settings: Settings) -> str:
    """Return settings as YAML that ``load`` reads back."""
    return yaml.safe_dump(as_recipe(settings), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``other``; mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in other.items():
        existing = merged.get(key)
        merged[key] = merge(existing, value) if isinstance(existing, Mapping) and isinstance(value, Mapping) else value
    return merged


def _find(name: str, beside: Path) -> Path:
    """Return the file of a recipe's name or of a path; SettingsError names the nearest known recipe."""
    if name in names():
        return FOLDER / f"{name}.yaml"
    path = (beside / Path(name).expanduser()).resolve()
    if path.is_file():
        return path
    is_path = "/" in name or name.endswith(SUFFIXES)
    raise SettingsError(
        f"there is no recipe file {path}: give the path of a YAML file, or one of {', '.join(names())}"
        if is_path
        else f"got the recipe {name!r}, expected one of {', '.join(names())}, or a YAML file{nearest(name, names())}"
    )


def _resolved(path: Path, before: tuple[Path, ...]) -> dict[str, Any]:
    """Return a recipe's data merged onto the recipe that it extends."""
    if path in before:
        chain = " -> ".join(recipe.name for recipe in (*before, path))
        raise SettingsError(f"recipes extend one another in a circle: {chain}; remove one 'extends'")
    data = in_current_words(beside(read_yaml(path), path.parent), str(path))
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise SettingsError(f"{path}: extends is {parent!r}, expected the name of a recipe or a YAML file")
    return merge(_resolved(_find(parent, path.parent), (*before, path)), data)


def _named(path: Path) -> dict[str, str]:
    """Return the name of a recipe that does not state one: its file's, never that of the recipe it extends."""
    return {} if "recipe" in read_yaml(path) else {"recipe": path.stem}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; SettingsError for another file, and for repeated keys."""
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path} has more than {LARGEST} bytes: it is not a recipe")
        text = path.read_text(encoding="utf-8")
        data = _parsed(text, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"the recipe {path} holds {type(data).__name__}, expected settings such as 'seed: 42'")
    return data


def _parsed(text: str, where: str) -> Any:
    """Return what a YAML text holds; SettingsError for repeated keys, YAMLError for what is no YAML."""
    try:
        loader = _LOADER(text)
    except UnicodeEncodeError as error:
        raise SettingsError(f"{where} holds half of a surrogate pair, which is no text") from error
    try:
        _check_depth(text, where)
        node = loader.get_single_node()
        _check_nodes(node, where)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # The library's constructors fail so on dates, numbers and tags that are none.
        raise SettingsError(f"{where} holds a value that YAML does not know: {error}") from error
    finally:
        loader.dispose()


def _check_depth(text: str, where: str) -> None:
    """Refuse what is nested deeper than any recipe: libyaml calls itself for each level, until the process ends."""
    depth = 0
    for event in yaml.parse(text, _LOADER) if len(text) > _SHORT else ():
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise SettingsError(f"{where} is nested deeper than {_DEEPEST} levels: it is no recipe")


def _check_nodes(root: yaml.Node | None, where: str) -> None:
    """Refuse repeated keys, of which YAML silently uses the last, keys that are no texts, and aliases without end."""
    waiting, count = [root], 0
    while waiting:
        node, count = waiting.pop(), count + 1
        if count > _MOST_VALUES:
            raise SettingsError(f"{where} holds more than {_MOST_VALUES} values with its aliases written out")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys_of(node, where)
            waiting += [value for _, value in node.value]


def _check_keys_of(node: yaml.MappingNode, where: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = f"{where}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{line}: a key is a list or a mapping, expected a name")
        if key.value in seen:
            raise SettingsError(f"{line}: {key.value} is given twice; keep one")
        seen.add(key.value)


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    return [_parse(text) for text in overrides]


def _parse(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise SettingsError(f"got the override {text!r}, expected a.b=c, for example grounding.steps=100")
    try:
        return dotted.strip(), _parsed(value, f"the override {text!a:.200}")
    except yaml.YAMLError as error:
        raise SettingsError(f"the value of the override {text!r} is not YAML: {error}") from error
