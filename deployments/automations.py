"""Automations of the Prefect server, one YAML file each in deployments/automations/: installed once, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from deployments import api, notification
from deployments.background import StackError

FOLDER = Path(__file__).with_suffix("")
Say = Callable[[str], None]


def install(api_url: str, say: Say, folder: Path = FOLDER) -> list[str]:
    """Create or update every automation of the folder on the server; returns the names of those that are there then.

    However often it runs there is one of each name, and one that a person has switched off stays off. One that
    notifies is left out where there is no block to notify: ``say`` tells how to make it.
    StackError names a file that is no automation, or what the server said of it.
    """
    found = [_read(path) for path in sorted(folder.glob("*.yaml"))]
    with api.client(api_url) as client:
        return [name for automation in found if (name := _installed(client, automation, say)) is not None]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StackError(f"the automation {path} cannot be read: {error}") from error
    if not isinstance(data, dict) or not {"name", "trigger", "actions"} <= set(data):
        raise StackError(f"{path} is not an automation, expected a mapping with name, trigger and actions")
    return data


def _installed(client: httpx.Client, automation: Mapping[str, Any], say: Say) -> str | None:
    name = str(automation["name"])
    addressed = notification.addressed(automation, lambda method, path, body: _asked(client, method, path, body))
    done = notification.way_out() if addressed is None else _install(client, addressed)
    say(f"automation {name!r}: {done}")
    return None if addressed is None else name


def _install(client: httpx.Client, wanted: Mapping[str, Any]) -> str:
    body = {"automations": {"name": {"any_": [wanted["name"]]}}}
    there = _asked(client, "POST", "/automations/filter", body)
    if not there:
        _asked(client, "POST", "/automations/", wanted)
        return "created"
    first, *doubles = sorted(there, key=lambda automation: str(automation["created"]))
    _asked(client, "PUT", f"/automations/{first['id']}", {**wanted, "enabled": first["enabled"]})
    for double in doubles:
        _asked(client, "DELETE", f"/automations/{double['id']}")
    return "up to date"


def _asked(client: httpx.Client, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    answer = client.request(method, path, json=dict(body) if body is not None else None)
    if answer.is_error:
        raise StackError(f"the Prefect server refused {method} {path}: {answer.status_code} {answer.text[:500]}")
    return answer.json() if answer.content else None
