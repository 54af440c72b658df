"""``mirage export`` and ``mirage push``: a trained model with its card, in a folder or on a Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from flows.commands.printing import console
from flows.export import plan_model_export
from mirage_core.errors import HubError, InputError
from mirage_core.model.export import Adapter, Export, write_export
from tasks.paths import open_store

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def export(reference: str, folder: Path, adapter: Adapter, licence: str | None, store: str | None) -> None:
    """Write the folder, and print how much is in it."""
    target = folder.expanduser()
    name, planned = plan_model_export(reference, open_store(store), adapter, licence)
    write_export(planned, target)
    count = len(planned.files) + len(planned.written)
    console.print(f"{name} -> {target}: {count} files, {format_bytes(planned.size)}", markup=False)


def push(
    reference: str,
    to: str,
    adapter: Adapter,
    licence: str | None,
    store: str | None,
    *,
    private: bool,
    dry_run: bool,
) -> None:
    """Upload as one commit, which replaces files of the same names. ``dry_run`` sends nothing."""
    if not _REPOSITORY.fullmatch(to):
        raise InputError(f"got --to {to}, expected user/name as in https://huggingface.co/user/name")
    name, planned = plan_model_export(reference, open_store(store), adapter, licence)
    if dry_run:
        for file, size in file_sizes(planned):
            console.print(f"{format_bytes(size):>8}  {file}", markup=False)
        console.print(f"would push {name} to {to}: {format_bytes(planned.size)}", markup=False)
        return
    url = upload(planned, to, private=private)
    console.print(f"{name} -> {url}", markup=False)


def file_sizes(export: Export) -> list[tuple[str, int]]:
    """Return every file of an export with its bytes, by name."""
    sizes = {name: path.stat().st_size for name, path in export.files.items()}
    return sorted({**sizes, **{name: len(content) for name, content in export.written.items()}}.items())


def format_bytes(count: int) -> str:
    """Return a number of bytes with a decimal unit."""
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def upload(export: Export, to: str, *, private: bool) -> str:
    """Send an export to a hub and return its URL. The token is HF_TOKEN, or that of ``hf auth login``.

    HubError names what the hub refused, and the way out.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    contents: dict[str, Path | bytes] = {**export.files, **export.written}
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    try:
        repository = api.create_repo(to, private=private, exist_ok=True)
        api.create_commit(repository.repo_id, operations, commit_message="Model trained by Mirage")
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, to)) from error
    except Exception as error:
        # The hub's client raises errors of many kinds: of HTTP, of the network, of its storage.
        message = (str(error).strip().splitlines() or [""])[0]
        raise HubError(f"nothing was pushed to {api.endpoint}: {type(error).__name__} {message}; try again") from error
    return str(repository)


def _refusal(error: Exception, to: str) -> str:
    """Return a hub's refusal and the way out, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    message = str(getattr(error, "server_message", None) or "").strip().splitlines()
    ways_out = {
        401: "set HF_TOKEN, or run `hf auth login`",
        403: f"your token may not write to {to}: use one with the role write, and a name of your own",
    }
    way_out = ways_out.get(status or 0, "check --to, and try again")
    return f"the hub refused {to} with status {status}{': ' + message[0] if message else ''}; {way_out}"
