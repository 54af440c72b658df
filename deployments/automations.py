"""Install the automations of deployments/automations/ (one YAML file each) on a Prefect server, once per name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from deployments import api, notification
from deployments.background import StackError

FOLDER = Path(__file__).with_suffix("")
Log = Callable[[str], None]


def install(api_url: str, log: Log, folder: Path = FOLDER) -> list[str]:
    """Create or update every automation of the folder on the server; return the names of those installed.

    A second call changes nothing, and an automation that was switched off stays off. One that notifies is left out
    where the server has no block to notify: ``log`` gets the way to make one.
    StackError names a file that is no automation, or the server's error.
    """
    automations = [_read(path) for path in sorted(folder.glob("*.yaml"))]
    with api.client(api_url) as client:
        return [name for automation in automations if (name := _install(client, automation, log)) is not None]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StackError(f"the automation {path} cannot be read: {error}") from error
    if not isinstance(data, dict) or not {"name", "trigger", "actions"} <= set(data):
        raise StackError(f"{path} is not an automation, expected a mapping with name, trigger and actions")
    return data


def _install(client: httpx.Client, automation: Mapping[str, Any], log: Log) -> str | None:
    name = str(automation["name"])
    resolved = notification.with_notification_block(
        automation, lambda method, path, body: _request(client, method, path, body)
    )
    result = notification.way_out() if resolved is None else _create_or_update(client, resolved)
    log(f"automation {name!r}: {result}")
    return None if resolved is None else name


def _create_or_update(client: httpx.Client, automation: Mapping[str, Any]) -> str:
    body = {"automations": {"name": {"any_": [automation["name"]]}}}
    existing = _request(client, "POST", "/automations/filter", body)
    if not existing:
        _request(client, "POST", "/automations/", automation)
        return "created"
    first, *duplicates = sorted(existing, key=lambda each: str(each["created"]))
    _request(client, "PUT", f"/automations/{first['id']}", {**automation, "enabled": first["enabled"]})
    for duplicate in duplicates:
        _request(client, "DELETE", f"/automations/{duplicate['id']}")
    return "up to date"


def _request(client: httpx.Client, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    response = client.request(method, path, json=dict(body) if body is not None else None)
    if response.is_error:
        raise StackError(f"the Prefect server refused {method} {path}: {response.status_code} {response.text[:500]}")
    return response.json() if response.content else None
