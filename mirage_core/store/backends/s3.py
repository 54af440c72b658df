"""S3: connection options, URL checks, and one line with the way out for each of its error codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mirage_core.errors import SettingsError

SCHEMES = ("s3", "s3a")
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the Prefect block that MIRAGE_S3_BLOCK names)"

# Errors that another attempt would only repeat: S3's codes, or the bare status where a HEAD response carries no code.
_REASONS = {
    "NoSuchBucket": "there is no such bucket. Create it, or choose another store root",
    "InvalidBucketName": "the server takes no bucket of that name. Choose another store root",
    "InvalidAccessKeyId": f"the server does not know the access key. Check {KEYS}, and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": f"the access key or its secret is wrong. Check {KEYS}",
    "AccessDenied": "these credentials have no right to do it. Allow them to list, read, write and delete there, or "
    "choose another store root",
    "ExpiredToken": "the session token has expired. Get a new one (AWS_SESSION_TOKEN), then run again",
    "InvalidToken": "the session token is not valid. Get a new one (AWS_SESSION_TOKEN), then run again",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's by too much. Set the clock (timedatectl "
    "set-ntp true), then run again",
    "PermanentRedirect": "the bucket is in another region. Set AWS_DEFAULT_REGION to it, or AWS_ENDPOINT_URL",
    "AuthorizationHeaderMalformed": "the bucket is in another region. Set AWS_DEFAULT_REGION to it",
    "403": "the server refuses without a reason: a wrong key, no right to the bucket, or a clock that is minutes off. "
    f"Check {KEYS}, the bucket's rights and the clock; `mirage store ls` says which it is",
}
_ALIASES = {"RequestExpired": "RequestTimeTooSkewed", "AllAccessDisabled": "AccessDenied", "Forbidden": "403"}
_ALIASES |= {"301": "PermanentRedirect", "TemporaryRedirect": "PermanentRedirect"}


@dataclass(frozen=True)
class Refusal:
    """Why S3 refused, in words; ``transient`` where another attempt may succeed."""

    reason: str
    transient: bool = False


def connection_options() -> dict[str, Any]:
    """The options of s3fs; botocore itself finds the endpoint (AWS_ENDPOINT_URL), the region and the keys.

    botocore addresses a custom endpoint in path style. File systems are not fork-safe: spawn processes.
    """
    return {
        "use_listings_cache": False,  # a listing cache hides objects that another client has just written
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 120,
            "retries": {"mode": "standard", "max_attempts": 3},
            # The store checks sha256 itself, and many servers other than AWS reject the newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "tcp_keepalive": True,
        },
    }


def check_url(url: str) -> None:
    """Raise SettingsError for an S3 URL without a bucket, or with keys: logs, manifests and the UI show it."""
    parts = urlsplit(url)
    if parts.scheme in SCHEMES and not parts.netloc:
        raise SettingsError("got a store root without a bucket, expected s3://bucket/prefix")
    if parts.scheme in SCHEMES and ("@" in parts.netloc or parts.query):
        raise SettingsError(
            "got a store root with '@' or '?' in it, expected s3://bucket/prefix: keys and endpoints do not belong in "
            f"the URL, which logs and the UI show. Set {KEYS} and AWS_ENDPOINT_URL"
        )


def refusal(error: BaseException) -> Refusal | None:
    """Why S3 refused; None where the exception is unknown or not an S3 client's."""
    for link in _chain(error):
        code = _code(link)
        if code is not None:
            reason = _REASONS.get(_ALIASES.get(code, code))
            return Refusal(reason) if reason else None
    return _client_refusal(error)


def no_bucket(error: BaseException) -> bool:
    """Whether a file is missing because its bucket is."""
    return any(_code(link) == "NoSuchBucket" for link in _chain(error))


def _client_refusal(error: BaseException) -> Refusal | None:
    """Why the client gave up before the server answered."""
    name, module = type(error).__name__, type(error).__module__
    if name == "ValueError" and "Invalid endpoint" in str(error):
        return Refusal("AWS_ENDPOINT_URL is not a URL. Give it as https://host or http://host:port")
    if not module.startswith(("botocore", "aiobotocore")):
        return None
    if "Credentials" in name:
        return Refusal(f"there are no credentials. Set {KEYS}")
    if name == "ParamValidationError":
        return Refusal("that is not a valid name of a bucket or an object. Choose another store root")
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "ConnectionClosedError"):
        return Refusal(
            f"the server at {_endpoint(error)} does not answer. Check AWS_ENDPOINT_URL, and that the server and the "
            "network are up; then run again",
            transient=True,
        )
    return None


def _endpoint(error: BaseException) -> str:
    """The scheme and host of the URL that failed; the rest may be secret."""
    parts = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url") or ""))
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") if parts.netloc else "S3"


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, Mapping) else None
    return str(details.get("Code")) if isinstance(details, Mapping) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes: s3fs wraps the client's exception in an OSError."""
    depth = 0
    while error is not None and depth < 8:
        yield error
        error, depth = error.__cause__, depth + 1
