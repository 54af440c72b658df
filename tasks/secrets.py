"""The key of the teacher's endpoint, read where the stage runs: from a Prefect Secret block, else from a variable.

It is never a flow parameter, a setting or a job variable: Prefect's UI shows all of those.
"""

from __future__ import annotations

import os
from typing import Any, cast

from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.errors import SettingsError


def read_key(runtime: TeacherRuntime) -> SecretStr | None:
    """Return the key; None where the variable is unset, SettingsError where the block cannot be read."""
    if runtime.api_key_block is not None:
        return _from_block(runtime.api_key_block)
    value = os.environ.get(runtime.api_key_variable)
    return SecretStr(value) if value else None


def _from_block(name: str) -> SecretStr:
    from prefect.blocks.system import Secret

    try:
        value = cast(Secret[Any], Secret.load(name)).get()  # a coroutine only in an event loop
    except Exception as error:
        fault = type(error).__name__
    else:
        if isinstance(value, str) and value.strip():
            return SecretStr(value)
        fault = "it holds no text"
    # Raised outside the except block: the block's own error may hold the key.
    raise SettingsError(
        f"the Prefect Secret block {name!r} (runtime.teacher.api_key_block) gave no key ({fault}): make it in "
        "Prefect's UI under Blocks, or name an environment variable in runtime.teacher.api_key_variable instead"
    )
