"""What every address of a server checks: the key, and that a body is JSON, not too large, and arrives in time."""

from __future__ import annotations

import asyncio
import hmac

from fastapi import Request
from pydantic import SecretStr

from mirage_core.serving.limits import RequestError, ServingLimits


def check_key(request: Request, key: SecretStr | None) -> None:
    """RequestError (401) for a request without the key."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if key is None:
        return
    same = hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode())
    if scheme.lower() != "bearer" or not same:
        raise RequestError("expected the server's key: Authorization: Bearer KEY", status=401)


async def read_body(request: Request, limits: ServingLimits) -> bytes:
    """Return the body. RequestError for one of another type, too large, or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another origin cannot send without asking first
        raise RequestError(f"got the content type {kind[:100]!r}, expected application/json", status=415)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise RequestError(f"the body has more than {limits.body_bytes} bytes (--max-body-mb)", status=413)
                parts.append(part)
    except TimeoutError as error:
        raise RequestError(f"the body did not arrive within {limits.body_s} seconds", status=408) from error
    return b"".join(parts)
