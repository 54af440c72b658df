"""A client of a Prefect server's API, with the credentials that Prefect's own clients would show it."""

from __future__ import annotations

import os
import time

import httpx

TRIES = 10
PAUSE_S = 0.2


class Patient(httpx.HTTPTransport):
    """Asks again where the server says 503: on SQLite it does whenever its data base is locked."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The first answer that is not 503, or the last one."""
        for tried in range(1, TRIES):
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            answer.close()
            time.sleep(PAUSE_S * tried)
        return super().handle_request(request)


def client(api_url: str, timeout_s: float = 30) -> httpx.Client:
    """A client that shows PREFECT_API_AUTH_STRING (user:password) or PREFECT_API_KEY where one is set."""
    user, colon, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = os.environ.get("PREFECT_API_KEY")
    return httpx.Client(
        base_url=api_url,
        timeout=timeout_s,
        trust_env=False,
        transport=Patient(),
        auth=httpx.BasicAuth(user, password) if colon else None,
        headers={"Authorization": f"Bearer {key}"} if key and not colon else None,
    )
