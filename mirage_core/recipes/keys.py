"""What is wrong with a recipe's keys and values, in words: the dotted path, what was got, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mirage_core.config import Settings
from mirage_core.errors import SettingsError


def check_keys(data: Mapping[Any, Any], model: type[BaseModel], at: str = "") -> None:
    """Refuse a key that the settings do not have, naming the nearest that they have."""
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
    """One line about one of pydantic's errors."""
    path = [str(part) for part in error["loc"] if part != "[key]"]  # pydantic's word for a mapping's wrong name
    dotted = ".".join(path) or "the recipe"
    message = error["msg"][:1].lower() + error["msg"][1:]
    if error["type"] == "missing":
        return f"  {dotted}: missing; expected {_described(path, model)}"
    described = _described(path, model)
    return f"  {dotted}: got {_brief(error['input'])}, but {message}" + (f" ({described})" if described else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """The question after a wrong name, or nothing when no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section a key stands for, None for a plain value."""
    annotation = model.model_fields[key].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def is_mapping(model: type[BaseModel], key: str) -> bool:
    """Whether a key's plain value is a mapping (``runtime.timeouts``), whose names pydantic checks."""
    return get_origin(model.model_fields[key].annotation) is dict


def dotted_names(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """Every key of the settings by its dotted path."""
    for key in model.model_fields:
        yield f"{at}{key}"
        section = section_of(model, key)
        if section is not None:
            yield from dotted_names(section, f"{at}{key}.")


def _unknown(key: str, dotted: str, model: type[BaseModel], at: str) -> str:
    """What to say of a key that is not there; one of exactly that name in another section comes first."""
    siblings = list(model.model_fields)
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    exact = [name for name in dotted_names(Settings) if name.rpartition(".")[2] == key]
    found = exact or [f"{at}{name}" for name in near] or _elsewhere(key)
    hint = f"; did you mean {' or '.join(found[:3])}?" if found else ""
    return f"got the unknown setting {dotted}, expected one of {', '.join(siblings)}{hint}"


def _elsewhere(key: str) -> list[str]:
    """Where a key of nearly that name stands in another section."""
    everywhere = list(dotted_names(Settings))
    last = {name.rpartition(".")[2] for name in everywhere}
    near = difflib.get_close_matches(key, last, n=1, cutoff=0.7)
    return [name for name in everywhere if near and name.rpartition(".")[2] == near[0]]


def _described(path: list[str], model: type[BaseModel]) -> str:
    """What the settings say of a key: its description."""
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
    # Credentials and queries of a URL are nobody's business.
    text = re.sub(r"(//[^\s'\"?]*\?)[^\s'\"]+", r"\1...", re.sub(r"//[^/@\s'\"]+@", "//...@", repr(value)))
    return text if len(text) <= 80 else f"{text[:77]}..."
