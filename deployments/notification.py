"""Whom automations notify: a notification block of the Prefect server, found by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

Ask = Callable[[str, str, Mapping[str, Any] | None], Any]
"""Asks the Prefect server: (method, path, body) -> JSON."""

DEFAULT_BLOCK = "mirage-notify"
SEND = "send-notification"


def block_name() -> str:
    """The name of the notification block: MIRAGE_NOTIFY, else mirage-notify."""
    return os.environ.get("MIRAGE_NOTIFY") or DEFAULT_BLOCK


def addressed(automation: Mapping[str, Any], ask: Ask) -> dict[str, Any] | None:
    """The automation with the block's id in its notifications; None where it notifies and there is no such block."""
    if all(action.get("type") != SEND for action in automation["actions"]):
        return dict(automation)
    block = _block_id(block_name(), ask)
    if block is None:
        return None
    actions = [
        {**action, "block_document_id": block} if action.get("type") == SEND else action
        for action in automation["actions"]
    ]
    return {**automation, "actions": actions}


def way_out() -> str:
    """How to make the block that is missing."""
    name = block_name()
    return (
        f"not installed, the server has no notification block named {name!r}: make one in its UI under Blocks (Slack "
        f"Webhook, Email, Custom Webhook, ...) with that name, or say MIRAGE_NOTIFY=NAME; then: mirage deploy"
    )


def _block_id(name: str, ask: Ask) -> str | None:
    body = {
        "block_documents": {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}},
        "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
    }
    found = ask("POST", "/block_documents/filter", body)
    return str(found[0]["id"]) if found else None
