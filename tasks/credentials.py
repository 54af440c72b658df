"""Keys of an S3 store in a Prefect block, which flows load when they start.

MIRAGE_S3_BLOCK names the block. Without it the worker's AWS variables are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import ClassVar, cast

from prefect.blocks.core import Block
from prefect.settings import get_current_settings
from pydantic import ConfigDict, Field, SecretStr

from mirage_core.errors import SettingsError

VARIABLE = "MIRAGE_S3_BLOCK"


class S3Credentials(Block):
    """Keys of an S3 store for Mirage's flows: `mirage s3-block NAME` saves them from the AWS variables."""

    model_config = ConfigDict(hide_input_in_errors=True)
    _block_type_name: ClassVar[str | None] = "Mirage S3 Credentials"
    _block_type_slug: ClassVar[str | None] = "mirage-s3-credentials"

    access_key_id: SecretStr = Field(description="As in AWS_ACCESS_KEY_ID.")
    secret_access_key: SecretStr = Field(description="As in AWS_SECRET_ACCESS_KEY.")
    session_token: SecretStr | None = Field(default=None, description="As in AWS_SESSION_TOKEN, where there is one.")
    region: str | None = Field(default=None, description="As in AWS_DEFAULT_REGION.")
    endpoint_url: str | None = Field(default=None, description="The server, where it is not AWS: https://host:port.")

    def environment(self) -> dict[str, str]:
        """Return the standard AWS variables."""
        token = self.session_token.get_secret_value() if self.session_token else None
        variables = {
            "AWS_ACCESS_KEY_ID": self.access_key_id.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key.get_secret_value(),
            "AWS_SESSION_TOKEN": token,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }
        return {name: value for name, value in variables.items() if value}


def provide(name: str) -> None:
    """Set the AWS variables of this process to the keys of the block, replacing any others."""
    variables = _load(name)
    os.environ.pop("AWS_SESSION_TOKEN", None)  # it belongs to other keys
    os.environ.update(variables)


def save(name: str, environment: Mapping[str, str]) -> None:
    """Save the AWS variables of ``environment`` as the block ``name``, replacing its content."""
    missing = [key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environment.get(key)]
    if missing:
        raise SettingsError(f"{' and '.join(missing)} not set: export the keys for the block, then run this again")
    token = environment.get("AWS_SESSION_TOKEN")
    block = S3Credentials(
        access_key_id=SecretStr(environment["AWS_ACCESS_KEY_ID"]),
        secret_access_key=SecretStr(environment["AWS_SECRET_ACCESS_KEY"]),
        session_token=SecretStr(token) if token else None,
        region=environment.get("AWS_DEFAULT_REGION") or environment.get("AWS_REGION"),
        endpoint_url=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
    )
    block.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg, unused-ignore]


@cache
def _load(name: str) -> dict[str, str]:
    if not get_current_settings().api.url:
        raise SettingsError(
            f"{VARIABLE} names the Prefect block {name!r}, but no Prefect server is known: set PREFECT_API_URL, "
            f"or start one (mirage up), or unset {VARIABLE} and set the AWS variables"
        )
    try:
        return cast(S3Credentials, S3Credentials.load(name, _sync=True)).environment()  # type: ignore[call-arg]
    except ValueError:  # raised by Prefect for a missing block
        fault = "the server does not have"
    except RuntimeError:  # raised for a block of another type
        fault = "does not hold the keys"
    # Raised outside the except block: the block's own error may hold the keys.
    raise SettingsError(
        f"{VARIABLE} names the Prefect block {name!r}, which {fault}: save it with `mirage s3-block {name}` while the "
        f"AWS variables are set, or unset {VARIABLE}"
    )
