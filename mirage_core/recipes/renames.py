"""Old names and values of settings in recipes, overrides and studies: translated, with one warning for each source."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel

from mirage_core.config import Settings
from mirage_core.config.renamed import to_current
from mirage_core.errors import SettingsError
from mirage_core.recipes.keys import section_of

logger = logging.getLogger(__name__)


def in_current_words(data: Mapping[str, Any], source: str, *, warn: bool = True) -> dict[str, Any]:
    """Translate settings to current names and values; one warning lists all old ones in ``source``.

    Raises:
        SettingsError: A setting is given by both its old and its new name.
    """
    current, notes = _translate(data, Settings, source, "")
    if warn:
        _warn(source, notes)
    return current


def study_in_current_words(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate the overrides and sweeps of a study file's data; one warning lists all old names."""
    notes: list[str] = []
    cells = data.get("cells")
    known = [_respelled(cell, source, notes) for cell in cells] if isinstance(cells, list) else cells
    current = {**_respelled(data, source, notes), **({} if known is None else {"cells": known})}
    _warn(source, notes)
    return current


def set_in_current_words(text: str) -> str:
    """Translate an override of the command line (``a.b=c``); a text without old names stays as it is."""
    dotted, equals, written = text.partition("=")
    try:
        value = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return text  # refused, with the reason, where it is read
    notes: list[str] = []
    name, current = _override(dotted.strip(), value, "--set", notes)
    _warn("--set", notes)
    return f"{name}{equals}{written if current == value else current}" if notes else text


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": value}}`` for ``a.b``."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def _translate(
    data: Mapping[str, Any], model: type[BaseModel], source: str, at: str
) -> tuple[dict[str, Any], list[str]]:
    """Translate a section and those inside it; return them and a note on every old name or value."""
    try:
        current = to_current(data, model.model_fields)
    except ValueError as error:
        raise SettingsError(f"{source}, {at.rstrip('.') or 'top level'}: {error}") from error
    notes = []
    for (key, old), (name, new) in zip(data.items(), list(current.items()), strict=True):
        if old != new:
            notes.append(f"{at}{key}={old} is now {at}{name}={new}")
        elif key != name:
            notes.append(f"{at}{key} is now {at}{name}")
        section = section_of(model, name) if name in model.model_fields else None
        if section is not None and isinstance(new, Mapping):
            current[name], inner = _translate(new, section, source, f"{at}{name}.")
            notes += inner
    return current, notes


def _override(dotted: str, value: Any, source: str, notes: list[str]) -> tuple[str, Any]:
    """Translate one override, a dotted name and its value; old names are added to ``notes``."""
    current, added = _translate(nested(dotted, value), Settings, source, "")
    notes += [note for note in added if note not in notes]
    names, inner = [], current
    for _ in dotted.split("."):
        ((name, inner),) = inner.items()
        names.append(name)
    return ".".join(names), inner


def _respelled(entry: Any, source: str, notes: list[str]) -> Any:
    """Translate the ``overrides`` of a cell, a sweep or a study, and the setting and values of a sweep."""
    if not isinstance(entry, Mapping):
        return entry
    current, overrides, values = dict(entry), entry.get("overrides"), entry.get("values")
    if isinstance(overrides, Mapping):
        pairs = [_override(str(dotted), value, source, notes) for dotted, value in overrides.items()]
        current["overrides"] = dict(pairs)
        if len(current["overrides"]) < len(pairs):
            raise SettingsError(
                f"{source}: overrides hold a setting by both its old and its new name: keep the new one"
            )
    if isinstance(values, list) and isinstance(entry.get("sweep"), str):
        pairs = [_override(entry["sweep"], value, source, notes) for value in values]
        current |= {"sweep": pairs[0][0] if pairs else entry["sweep"], "values": [value for _, value in pairs]}
    return current


def _warn(source: str, notes: list[str]) -> None:
    if notes:
        _warn_once(f"{source}: old names of settings, accepted for one more release: {'; '.join(notes)}")


@cache
def _warn_once(text: str) -> None:
    """Warn once a process: a study reads its recipe for every cell."""
    logger.warning(text)
