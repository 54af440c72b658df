from __future__ import annotations

import pytest

from mirage_core.errors import InputError
from mirage_core.store import fingerprint


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    one = fingerprint("s", 1, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"})
    assert one == fingerprint("s", 1, {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"})
    assert len(one) == 64


def test_everything_that_changes_a_result_changes_the_fingerprint() -> None:
    calls = [
        ("s", 1, {"a": 1}, {"x": "1"}),
        ("t", 1, {"a": 1}, {"x": "1"}),
        ("s", 2, {"a": 1}, {"x": "1"}),
        ("s", 1, {"a": 2}, {"x": "1"}),
        ("s", 1, {"a": 1}, {"x": "2"}),
        ("s", 1, {"a": 1}, {"z": "1"}),
    ]
    assert len({fingerprint(*call) for call in calls}) == len(calls)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_what_is_not_json_has_no_fingerprint(value: object) -> None:
    with pytest.raises(InputError, match="JSON"):
        fingerprint("s", 1, value, {})


def test_a_known_fingerprint_stays_what_it_is() -> None:
    """Stores outlive versions: a change of the rule would orphan every artifact there is."""
    assert fingerprint("s", 1, {"a": "é"}, {}) == "d55aecbca835a6e8e19308cfe39c051602d3946b73e363abf5300d9b37750cf2"
