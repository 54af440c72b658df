"""S3: how a store's root on it is reached, and what its refusals mean in one line with the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mirage_core.errors import SettingsError

SCHEMES = ("s3", "s3a")
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the Prefect block that MIRAGE_S3_BLOCK names)"

# Refusals that another attempt would only repeat; S3's own codes, and the bare status where a HEAD carries no more.
_REFUSED = {
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
_SAME = {"RequestExpired": "RequestTimeTooSkewed", "AllAccessDisabled": "AccessDenied", "Forbidden": "403"}
_SAME |= {"301": "PermanentRedirect", "TemporaryRedirect": "PermanentRedirect"}


@dataclass(frozen=True)
class Refusal:
    """What S3 said, in words; ``transient`` where another attempt may succeed."""

    said: str
    transient: bool = False


def connection_options() -> dict[str, Any]:
    """How s3fs connects; the endpoint (AWS_ENDPOINT_URL), region and keys are botocore's to find.

    An endpoint of its own is spoken to in path style (botocore does so). File systems are not fork-safe: spawn.
    """
    return {
        "use_listings_cache": False,  # a listing cache hides objects that another client has just written
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 120,
            "retries": {"mode": "standard", "max_attempts": 3},
            # The store checks sha256 itself, and many servers but AWS's own stumble over newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "tcp_keepalive": True,
        },
    }


def check_url(url: str) -> None:
    """SettingsError when an S3 URL holds keys: it is shown in logs, manifests and the UI. It is not repeated here."""
    parts = urlsplit(url)
    if parts.scheme in SCHEMES and ("@" in parts.netloc or parts.query):
        raise SettingsError(
            "got a store root with '@' or '?' in it, expected s3://bucket/prefix: keys and endpoints do not belong in "
            f"the URL, which logs and the UI show. Set {KEYS} and AWS_ENDPOINT_URL"
        )


def refusal(problem: BaseException) -> Refusal | None:
    """What an S3 client's exception means; None where that is not known, or it is not S3's."""
    for link in _chain(problem):
        code = _code(link)
        if code is not None:
            said = _REFUSED.get(_SAME.get(code, code))
            return Refusal(said) if said else None
    return _of_client(problem)


def no_bucket(problem: BaseException) -> bool:
    """Whether a missing file is a missing bucket."""
    return any(_code(link) == "NoSuchBucket" for link in _chain(problem))


def _of_client(problem: BaseException) -> Refusal | None:
    """What the client noticed before any answer."""
    name, module = type(problem).__name__, type(problem).__module__
    if name == "ValueError" and "Invalid endpoint" in str(problem):
        return Refusal("AWS_ENDPOINT_URL is not a URL. Give it as https://host or http://host:port")
    if not module.startswith(("botocore", "aiobotocore")):
        return None
    if "Credentials" in name:
        return Refusal(f"there are no credentials. Set {KEYS}")
    if name == "ParamValidationError":
        return Refusal("that is no name of a bucket or an object. Choose another store root")
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "ConnectionClosedError"):
        return Refusal(
            f"the server at {_endpoint(problem)} does not answer. Check AWS_ENDPOINT_URL, and that the server and the "
            "network are up; then run again",
            transient=True,
        )
    return None


def _endpoint(problem: BaseException) -> str:
    """The scheme and host of the URL that failed; the rest of it is nobody's business."""
    told = getattr(problem, "kwargs", {}).get("endpoint_url")
    parts = urlsplit(str(told or ""))
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") if parts.netloc else "S3"


def _code(problem: BaseException) -> str | None:
    response = getattr(problem, "response", None)
    error = response.get("Error") if isinstance(response, Mapping) else None
    return str(error.get("Code")) if isinstance(error, Mapping) else None


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    """The exception and what caused it: s3fs wraps the client's in an OSError."""
    seen = 0
    while problem is not None and seen < 8:
        yield problem
        problem, seen = problem.__cause__, seen + 1
