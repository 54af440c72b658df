"""``mirage push``: a trained model, with its card, to a Hugging Face hub."""

from __future__ import annotations

import re

from flows.commands.printing import console
from flows.exported import exported, listed, size
from mirage_core.errors import HubError, InputError
from mirage_core.model.export import Adapter, Export
from tasks.paths import open_store

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


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
    """Upload as one commit; what is there already under the same names is replaced. ``dry_run`` sends nothing."""
    if not _NAME.fullmatch(to):
        raise InputError(f"got --to {to}, expected user/name as in https://huggingface.co/user/name")
    name, made = exported(reference, open_store(store), adapter, licence)
    if dry_run:
        for file, count in listed(made):
            console.print(f"{size(count):>8}  {file}", markup=False)
        console.print(f"would push {name} to {to}: {size(made.size)}", markup=False)
        return
    url = upload(made, to, private=private)
    console.print(f"{name} -> {url}", markup=False)


def upload(export: Export, to: str, *, private: bool) -> str:
    """Send an export to a hub; returns where it is. The token is HF_TOKEN's, or that of ``hf auth login``.

    HubError says what the hub refused, and the way out.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in export.files.items()]
    operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=text) for name, text in export.written.items()]
    try:
        where = api.create_repo(to, private=private, exist_ok=True)
        api.create_commit(where.repo_id, operations, commit_message="Model trained by Mirage")
    except HfHubHTTPError as error:
        raise HubError(_refused(error, to)) from error
    except Exception as error:
        # The hub's client raises errors of many kinds: of HTTP, of the network, of its storage.
        said = (str(error).strip().splitlines() or [""])[0]
        raise HubError(f"nothing was pushed to {api.endpoint}: {type(error).__name__} {said}; try again") from error
    return str(where)


def _refused(problem: Exception, to: str) -> str:
    """What a hub answered in one line, and what can be done."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    said = str(getattr(problem, "server_message", None) or "").strip().splitlines()
    ways = {
        401: "set HF_TOKEN, or run `hf auth login`",
        403: f"your token may not write to {to}: take one with the role write, and a name of your own",
    }
    way_out = ways.get(status or 0, "look at --to, and try again")
    return f"the hub refused {to} with status {status}{': ' + said[0] if said else ''}; {way_out}"
