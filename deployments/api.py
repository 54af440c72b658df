"""A client of a Prefect server's API, with the credentials that Prefect's own clients would show it."""

from __future__ import annotations

import os

import httpx


def client(api_url: str, timeout_s: float = 30) -> httpx.Client:
    """A client that shows PREFECT_API_AUTH_STRING (user:password) or PREFECT_API_KEY where one is set."""
    user, colon, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = os.environ.get("PREFECT_API_KEY")
    return httpx.Client(
        base_url=api_url,
        timeout=timeout_s,
        trust_env=False,
        auth=httpx.BasicAuth(user, password) if colon else None,
        headers={"Authorization": f"Bearer {key}"} if key and not colon else None,
    )
