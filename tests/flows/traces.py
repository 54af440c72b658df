"""Where a key could have left a trace: all that a Prefect server shows and stores, a bucket, folders of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.servers.swift import SwiftServer

PAGE = 200
# What the UI shows is made of these lists. Their own words: secrets as they are shown when nobody asks for more.
LISTS = (
    "artifacts", "block_documents", "block_types", "block_schemas", "deployments", "flow_runs", "flow_run_states",
    "flows", "logs", "task_runs", "variables", "work_pools",
)  # fmt: skip

Post = Callable[[str, Mapping[str, Any]], Any]


def all_the_api_shows(post: Post, get: Callable[[str], Any]) -> dict[str, str]:
    """Every list of the API in full; ``post`` and ``get`` give the JSON of an answer."""
    shown: dict[str, list[Any]] = {"events": post("events/filter", {"limit": 50})["events"]}
    runs = []
    for name in LISTS:
        if name == "flow_run_states":
            shown[name] = [get(f"flow_run_states/?flow_run_id={run['id']}") for run in runs]
            continue
        shown[name] = pages(lambda body, name=name: post(f"{name}/filter", body))  # type: ignore[misc]
        runs = shown[name] if name == "flow_runs" else runs
    return {name: json.dumps(items) for name, items in shown.items()}


def pages(ask: Callable[[Mapping[str, Any]], list[Any]]) -> list[Any]:
    """Every page of a list."""
    items: list[Any] = []
    while True:
        page = ask({"limit": PAGE, "offset": len(items)})
        items += page
        if len(page) < PAGE:
            return items


def objects(server: SwiftServer, bucket: str) -> dict[str, bytes]:
    """Everything in a bucket."""
    client, name = server.client(), bucket.removeprefix("s3://")
    listed = client.get_paginator("list_objects_v2").paginate(Bucket=name)
    keys = [items["Key"] for page in listed for items in page.get("Contents", [])]
    return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}


def files(*folders: Path) -> list[Path]:
    """Every file below the folders."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def secrets(server: SwiftServer) -> list[str]:
    """What must be nowhere: the names (after the account) and the secrets of both users."""
    environments = [server.environment(user) for user in ("owner", "guest")]
    return [item["AWS_ACCESS_KEY_ID"].partition(":")[2] for item in environments] + [
        item["AWS_SECRET_ACCESS_KEY"] for item in environments
    ]


def assert_nowhere(wanted: Iterable[str], texts: Mapping[str, str | bytes]) -> None:
    """Fails with the name of the text that holds one of the secrets, and what stands before it."""
    for name, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        for secret in wanted:
            at = data.find(secret.encode())
            assert at < 0, f"a key is in {name}, after {data[max(0, at - 200) : at]!r}"
