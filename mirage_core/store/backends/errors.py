"""What file systems and S3 clients raise, turned into the store's errors, each with the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mirage_core.errors import ArtifactError, MirageError, StoreUnavailable
from mirage_core.store.backends import s3


@contextmanager
def errors_named(url: str, key: str, writing: bool = False) -> Iterator[None]:
    """Turn what file systems and S3 clients raise into the store's errors; a missing file stays FileNotFoundError."""
    try:
        yield
    except MirageError:
        raise
    except FileNotFoundError as error:
        if s3.no_bucket(error):
            raise store_error(error, url, key, "write" if writing else "read") from error
        if not writing:
            raise
        said = str(error).rstrip(".")
        raise ArtifactError(f"cannot write {key} to {url}: {said}. Create that folder or bucket first") from error
    except Exception as error:
        raise store_error(error, url, key, "write" if writing else "read") from error


def store_error(problem: Exception, url: str, key: str, doing: str) -> MirageError:
    """The store's error for a low-level one, with the way out; transient ones are StoreUnavailable."""
    at = f"cannot {doing} {key or 'the store'} {'to' if doing == 'write' else 'in'} {url}"
    refused = s3.refusal(problem)
    if refused is not None:
        return (StoreUnavailable if refused.transient else ArtifactError)(f"{at}: {refused.said}")
    code = problem.errno if isinstance(problem, OSError) else None
    name = type(problem).__name__
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"{at}: no space left. Free some room or choose another store root, then run again")
    if isinstance(problem, PermissionError) or code in (errno.EROFS, errno.EPERM):
        return ArtifactError(
            f"{at}: not allowed ({problem}). Check the owner and the credentials, or choose another root"
        )
    if isinstance(problem, NotADirectoryError | IsADirectoryError | FileExistsError):
        return ArtifactError(f"{at}: a file stands where a folder should be, or the reverse ({problem}). Move it away")
    if isinstance(problem, OSError) or type(problem).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
        return StoreUnavailable(f"{at}: the store did not answer well ({name}: {problem}). Check that it is reachable")
    return ArtifactError(f"{at}: {name}: {problem}")
