"""Mutations of good input: of bytes, of texts by pieces, and of JSON values by their structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

DEEP = "[" * 100_000
"""Deeper than any reader goes."""
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    10**30,
    -(2**63),
    2**31,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\n",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "e\u0301",
    "\u202e",
    "\ufeff",
    "\uff21",
    "x" * 300,
    "y" * 5000,
    "..",
    "../..",
    "/etc/passwd",
    "/dev/zero",
    "~root",
    "a/../b",
    "C:\\x",
    "file:///etc/passwd",
    "<image>",
    "<image><image>",
    "<|im_end|>",
    "<think>",
    "{x}",
    "{0.__class__}",
    "%s",
    "2001-13-45",
    "0x1F",
    "1_000",
    "\u0661",
    "\u00b2",
    "true",
    "null",
    "NaN",
    "[" * 2000,
    "(" * 300,
    "{[]: 1}",
    "9" * 5000,
    [],
    {},
    [[]],
    [None],
    [[], {}],
    {"": 0},
    {"a": {"b": []}},
    {"\ud800": 1},
    ["a", "a"],
    [1, "a", None],
    [0.1, 0.2, 0.3, 0.4],
    list(range(40)),
)
"""What takes the place of a value."""
_RUNS = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"[",
    b"{",
    b'"',
    b"\\u",
    b"\\ud800",
    b",",
    b"\n",
    b"-",
    b"1e999",
    b"\xef\xbb\xbf",
)


def mutated_bytes(data: bytes, other: bytes, chance: Random) -> bytes:
    """Return data with one to four changes: bits, bytes, runs removed, doubled or inserted, its end cut, spliced."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        size = len(changed)
        at, way = chance.randrange(size + 1), chance.randrange(8)
        length = chance.choice((1, 1, 2, 4, 16, 64))
        if way == 0 and at < size:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 1 and at < size:
            changed[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif way == 2:
            del changed[at : at + length]
        elif way == 3:
            changed[at:at] = changed[at : at + length]
        elif way == 4:
            changed[at:at] = chance.choice(_RUNS) * chance.choice((1, 1, 2, 50))
        elif way == 5:
            del changed[at:]
        elif way == 6:
            changed[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            changed[at : at + length] = chance.randbytes(length)
    return bytes(changed)


def mutated_value(value: Any, chance: Random) -> Any:
    """Return a JSON value with one place changed; every other part is shared with it."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        way = chance.randrange(12)
        if way == 0:
            return {name: item for name, item in value.items() if name != key}
        if way == 1:
            return {**value, chance.choice(("", "x", key + "s", "\ud800", "extends", "0")): chance.choice(STRANGE)}
        return {**value, key: mutated_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at, way = chance.randrange(len(value)), chance.randrange(8)
        if way == 0:
            return value[:at] + value[at + 1 :]
        if way == 1:
            return [*value, *value[at:]]
        return [*value[:at], mutated_value(value[at], chance), *value[at + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.3:
        return mutated_text(value, (), chance)
    return chance.choice(STRANGE)


def mutated_json(value: Any, chance: Random) -> bytes:
    """Return a JSON text of a mutated value; one of four times its bytes are mutated as well, rarely it is deep."""
    if chance.random() < 0.0005:
        return DEEP.encode() if chance.random() < 0.5 else b'{"a":' * 50_000
    changed = value
    for _ in range(chance.choice((1, 1, 2, 3))):
        changed = mutated_value(changed, chance)
    data = json.dumps(changed, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated_bytes(data, data, chance) if chance.random() < 0.25 else data


def mutated_text(text: str, pieces: Sequence[str], chance: Random) -> str:
    """Return a text with one to five pieces inserted, repeated, removed or swapped."""
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        at, way = chance.randrange(len(text) + 1), chance.randrange(6)
        length = chance.choice((1, 2, 5, 20))
        if way == 0:
            text = text[:at] + text[at + length :]
        elif way == 1:
            text = text[:at] + text[at : at + length] * chance.choice((2, 3, 20)) + text[at:]
        elif way == 2:
            text = text[at:] + text[:at]
        elif way == 3 or not pieces:
            text = (
                text[:at]
                + chr(chance.choice((0, 10, 32, 0x301, 0x202E, 0xD800, 0xFF21, 0x1D400, 0x10FFFF)))
                + text[at:]
            )
        else:
            text = text[:at] + chance.choice(pieces) * chance.choice((1, 1, 1, 2, 30)) + text[at:]
    return text
