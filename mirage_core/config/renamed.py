"""Renamed settings and values. Recipes may use the old ones for one more release; stored files always hold them.

Fingerprints are computed from stored settings, so they keep the old names and older artifacts stay cached. For the same
reason a setting that was added later is not stored while it has the value that means "as before".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

OLD_NAMES = {
    "max_loss_ratio": "stop_above",
    "zero_variance_groups": "silent_groups",
    "accuracy_filter": "group_accuracy",
    "max_resamples": "redraws",
    "input": "fed",
    "latent_lens": "looks",
    "shutdown_grace_s": "grace_s",
}
"""The old name of a setting, by its current name."""

OLD_VALUES = {
    "batch_by": {"random": "chance"},
    "input": {"hidden_state": "own"},
    "compression": {"changed_patches": "changed"},
}
"""The old spellings of a setting's values, by the setting's current name."""

ADDED = {"plans": "published", "blind": False, "background": "white"}
"""Settings that were added later, with the value under which everything is as before they existed."""

NEW_NAMES = {old: new for new, old in OLD_NAMES.items()}
NEW_VALUES = {name: {old: new for new, old in values.items()} for name, values in OLD_VALUES.items()}


def to_stored(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's data with old names and values, in the same order, without added settings that are off."""
    return {
        OLD_NAMES.get(name, name): _value(OLD_VALUES, name, value)
        for name, value in data.items()
        if not (name in ADDED and value == ADDED[name])
    }


def to_current(data: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return a section's data with current names and values; ``fields``: the section's settings.

    Raises:
        ValueError: A setting is given by both its old and its new name.
    """
    current: dict[str, Any] = {}
    for key, value in data.items():
        name = NEW_NAMES.get(key, key)
        name = name if name in fields else key
        if name != key and name in data:
            raise ValueError(f"got both {key} and {name}, its new name: keep {name}")
        current[name] = _value(NEW_VALUES, name, value)
    return current


def _value(spelling: Mapping[str, Mapping[str, str]], name: str, value: Any) -> Any:
    return spelling.get(name, {}).get(value, value) if isinstance(value, str) else value
