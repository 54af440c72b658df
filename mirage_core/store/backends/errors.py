"""Translates the exceptions of file systems and S3 clients into the store's errors, each with the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mirage_core.errors import ArtifactError, MirageError, StoreUnavailable
from mirage_core.store.backends import s3


@contextmanager
def translated_errors(url: str, key: str, writing: bool = False) -> Iterator[None]:
    """Raise the store's errors for those of file systems and S3 clients; a missing file stays FileNotFoundError."""
    try:
        yield
    except MirageError:
        raise
    except FileNotFoundError as error:
        if s3.no_bucket(error):
            raise store_error(error, url, key, "write" if writing else "read") from error
        if not writing:
            raise
        reason = str(error).rstrip(".")
        raise ArtifactError(f"cannot write {key} to {url}: {reason}. Create that folder or bucket first") from error
    except Exception as error:
        raise store_error(error, url, key, "write" if writing else "read") from error


def store_error(error: Exception, url: str, key: str, action: str) -> MirageError:
    """The store's error for a low-level one, with the way out; transient ones become StoreUnavailable."""
    failed = f"cannot {action} {key or 'the store'} {'to' if action == 'write' else 'in'} {url}"
    refused = s3.refusal(error)
    if refused is not None:
        return (StoreUnavailable if refused.transient else ArtifactError)(f"{failed}: {refused.reason}")
    code = error.errno if isinstance(error, OSError) else None
    name = type(error).__name__
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(
            f"{failed}: no space left. Free some space or choose another store root, then run again"
        )
    if isinstance(error, PermissionError) or code in (errno.EROFS, errno.EPERM):
        return ArtifactError(
            f"{failed}: not allowed ({error}). Check the owner and the credentials, or choose another root"
        )
    if isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
        return ArtifactError(
            f"{failed}: there is a file where a folder is expected, or the reverse ({error}). Move it away"
        )
    if isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
        return StoreUnavailable(
            f"{failed}: the store did not answer as expected ({name}: {error}). Check that it is reachable"
        )
    return ArtifactError(f"{failed}: {name}: {error}")
