"""Make the bucket of MIRAGE_STORE where it is missing (for a fresh S3 server): python -m deployments.bucket."""

from __future__ import annotations

import os
import sys
import time

from mirage_core.errors import SettingsError

TIMEOUT_S = 120.0


def make_bucket(url: str) -> bool:
    """Make the bucket of ``s3://bucket/prefix``; return False where it exists. Waits for a server that is starting."""
    scheme, _, rest = url.partition("://")
    bucket = rest.split("/")[0]
    if scheme != "s3" or not bucket:
        raise SettingsError(f"MIRAGE_STORE is {url!r}, expected s3://bucket/prefix")
    from s3fs import S3FileSystem

    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            system = S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
            if system.exists(bucket):
                return False
            system.mkdir(bucket)
            return True
        except (ConnectionError, OSError) as error:
            if isinstance(error, PermissionError) or time.monotonic() > deadline:
                raise SettingsError(
                    f"the bucket {bucket} could not be made at {os.environ.get('AWS_ENDPOINT_URL', 'AWS')} "
                    f"({type(error).__name__}: {error}): check AWS_ENDPOINT_URL and the keys"
                ) from error
            time.sleep(1.0)


def main() -> int:
    """Create the bucket where it is missing, and print which was the case."""
    url = os.environ.get("MIRAGE_STORE", "")
    created = make_bucket(url)
    sys.stdout.write(f"the bucket of {url} {'was created' if created else 'exists'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
