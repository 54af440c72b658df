"""The notification block of the Prefect server that automations notify, found by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

Request = Callable[[str, str, Mapping[str, Any] | None], Any]
"""Sends a request to the Prefect server: (method, path, body) -> JSON."""

DEFAULT_BLOCK = "mirage-notify"
SEND = "send-notification"


def block_name() -> str:
    """Return the name of the notification block: MIRAGE_NOTIFY, else mirage-notify."""
    return os.environ.get("MIRAGE_NOTIFY") or DEFAULT_BLOCK


def with_notification_block(automation: Mapping[str, Any], request: Request) -> dict[str, Any] | None:
    """Return the automation with the block's id in its notifications; None where it needs a block that is missing."""
    if all(action.get("type") != SEND for action in automation["actions"]):
        return dict(automation)
    block = _block_id(block_name(), request)
    if block is None:
        return None
    actions = [
        {**action, "block_document_id": block} if action.get("type") == SEND else action
        for action in automation["actions"]
    ]
    return {**automation, "actions": actions}


def way_out() -> str:
    """Return how to make the missing block."""
    name = block_name()
    return (
        f"not installed, the server has no notification block named {name!r}: make one in its UI under Blocks (Slack "
        f"Webhook, Email, Custom Webhook, ...) with that name, or set MIRAGE_NOTIFY=NAME; then: mirage deploy"
    )


def _block_id(name: str, request: Request) -> str | None:
    body = {
        "block_documents": {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}},
        "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
    }
    blocks = request("POST", "/block_documents/filter", body)
    return str(blocks[0]["id"]) if blocks else None
