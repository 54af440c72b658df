"""Error messages about a recipe's keys and values: the dotted path, what was got, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mirage_core.config import Settings
from mirage_core.config.renamed import NEW_NAMES, OLD_NAMES
from mirage_core.errors import SettingsError


def check_keys(data: Mapping[Any, Any], model: type[BaseModel], at: str = "") -> None:
    """Refuse unknown keys; SettingsError names the nearest known one."""
    for key, value in data.items():
        dotted = f"{at}{key}"
        if key not in model.model_fields:
            raise SettingsError(_unknown(str(key), dotted, model, at))
        section = section_of(model, key)
        if section is not None and isinstance(value, Mapping):
            check_keys(value, section, f"{dotted}.")
        elif section is None and isinstance(value, Mapping) and not is_mapping(model, key):
            described = _about(model, key)
            raise SettingsError(
                f"{dotted}: got {_brief(dict(value))}, expected a plain value"
                + (f" ({described})" if described else "")
            )


def explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    """Return one line about one of pydantic's errors."""
    path = [str(part) for part in error["loc"] if part != "[key]"]  # pydantic's mark of a mapping's key
    dotted = ".".join(path) or "the recipe"
    message = error["msg"][:1].lower() + error["msg"][1:]
    if error["type"] == "missing":
        return f"  {dotted}: missing; expected {_described(path, model)}"
    described = _described(path, model)
    return f"  {dotted}: got {_brief(error['input'])}, but {message}" + (f" ({described})" if described else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question to append to a wrong name, empty if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the section of a key, None for a plain value."""
    annotation = model.model_fields[key].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def is_mapping(model: type[BaseModel], key: str) -> bool:
    """Return whether a key's plain value is a mapping (``runtime.timeouts``), whose names pydantic checks."""
    return get_origin(model.model_fields[key].annotation) is dict


def dotted_names(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """Yield every key of the settings by its dotted path."""
    for key in model.model_fields:
        yield f"{at}{key}"
        section = section_of(model, key)
        if section is not None:
            yield from dotted_names(section, f"{at}{key}.")


def _unknown(key: str, dotted: str, model: type[BaseModel], at: str) -> str:
    """The message for an unknown key; a setting of exactly that name (old or new) in another section comes first."""
    siblings = list(model.model_fields)
    exact = _everywhere(NEW_NAMES.get(key, key))
    candidates = exact or [f"{at}{name}" for name in _near(key, siblings, 0.6)]
    candidates = candidates or [name for near in _near(key, _leaves(), 0.7) for name in _everywhere(near)]
    hint = f"; did you mean {' or '.join(candidates[:3])}?" if candidates else ""
    return f"got the unknown setting {dotted}, expected one of {', '.join(siblings)}{hint}"


def _near(key: str, names: Collection[str], cutoff: float) -> list[str]:
    """The name nearest to a key, by its current or its old spelling; empty where none is near."""
    spellings = {OLD_NAMES.get(name, name): name for name in names} | {name: name for name in names}
    return [spellings[near] for near in difflib.get_close_matches(key, spellings, n=1, cutoff=cutoff)]


def _leaves() -> set[str]:
    return {name.rpartition(".")[2] for name in dotted_names(Settings)}


def _everywhere(leaf: str) -> list[str]:
    """The dotted paths of every setting of that name."""
    return [name for name in dotted_names(Settings) if name.rpartition(".")[2] == leaf]


def _described(path: list[str], model: type[BaseModel]) -> str:
    """Return the description of a key."""
    section: type[BaseModel] | None = model
    for number, part in enumerate(path):
        if section is None or part not in section.model_fields:
            return ""
        following = section_of(section, part)
        if following is None or number == len(path) - 1:
            return _about(section, part)
        section = following
    return ""


def _about(model: type[BaseModel], key: str) -> str:
    return (model.model_fields[key].description or "").rstrip(".")


def _brief(value: Any) -> str:
    # Credentials and queries of a URL must not be shown.
    text = re.sub(r"(//[^\s'\"?]*\?)[^\s'\"]+", r"\1...", re.sub(r"//[^/@\s'\"]+@", "//...@", repr(value)))
    return text if len(text) <= 80 else f"{text[:77]}..."
