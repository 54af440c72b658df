"""An HTTP client of a Prefect server's API, with the credentials that Prefect's own clients use."""

from __future__ import annotations

import os
import time

import httpx

MAX_ATTEMPTS = 10
RETRY_DELAY_S = 0.2


class RetryOn503(httpx.HTTPTransport):
    """Retries on 503: a server on SQLite responses it whenever its database is locked."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the first response that is not 503, or the last one."""
        for attempt in range(1, MAX_ATTEMPTS):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response
            response.close()
            time.sleep(RETRY_DELAY_S * attempt)
        return super().handle_request(request)


def client(api_url: str, timeout_s: float = 30) -> httpx.Client:
    """Return a client that sends PREFECT_API_AUTH_STRING (user:password) or PREFECT_API_KEY where one is set."""
    user, colon, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = os.environ.get("PREFECT_API_KEY")
    return httpx.Client(
        base_url=api_url,
        timeout=timeout_s,
        trust_env=False,
        transport=RetryOn503(),
        auth=httpx.BasicAuth(user, password) if colon else None,
        headers={"Authorization": f"Bearer {key}"} if key and not colon else None,
    )
