"""``mirage data probe``: what a downloaded data set holds, and what of it does not fit its benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.commands.printing import print_line
from mirage_core import benchmarks
from mirage_core.benchmarks.io.chain_rows import monet_rows, visual_cot_rows
from mirage_core.benchmarks.io.faults import collected_faults
from mirage_core.benchmarks.io.hub_rows import is_json_list, json_list
from mirage_core.benchmarks.io.jsonl import read_rows
from mirage_core.errors import DataError
from mirage_core.image_files import read_header
from mirage_core.types import Problem

CHAINS: dict[str, Callable[[Path], Iterable[Any]]] = {"visual-cot": visual_cot_rows, "monet-sft": monet_rows}
"""Training sets that are probed beside the benchmarks."""
_ROW_FILES = (".parquet", ".jsonl", ".json")
_MOST_FILES, _MOST_FAULTS = 20, 20
_SHOWN = 160
_PUBLISHED = {
    "vstar": 191, "hr-bench-4k": 800, "hr-bench-8k": 800, "mme-realworld-lite": 1919, "tablevqa": 1500, "jigsaw": 150,
    "blink-jigsaw": 150, "blink-multi-view": 133, "sat": 300, "comt": 3853, "vsp-planning": 400,
}  # fmt: skip
"""Problems of the published data; SAT's 150 test rows are asked in both orders of their options."""


def probe(benchmark: str, data: str, *, as_json: bool) -> None:
    """Print files, columns, counts and the first row; DataError says what does not fit, after what was found."""
    path = Path(data).expanduser()
    found: dict[str, Any] = {"benchmark": benchmark, "data": data, "kinds": kinds_of(path), "files": files_of(path)}
    with collected_faults() as faults:
        try:
            found |= _chains(benchmark, data) if benchmark in CHAINS else _problems(benchmark, data)
        except DataError as error:
            faults.append(str(error))
    found["faults"] = faults
    print_line(json.dumps(found, indent=1, ensure_ascii=False)) if as_json else _print(found)
    if faults:
        more = f"\n... and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise DataError(
            f"{len(faults)} rows or files of {data} do not fit:\n" + "\n".join(faults[:_MOST_FAULTS]) + more
        )


def kinds_of(path: Path) -> dict[str, int]:
    """Return the number of files of each suffix below a folder; empty for a file and a hub id."""
    files = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else ()
    return dict(sorted(Counter(file.suffix or file.name for file in files).items()))


def files_of(path: Path) -> list[dict[str, Any]]:
    """Return the files of rows at a path, with their sizes, columns and numbers of rows; none for a hub id."""
    files = sorted(file for file in path.rglob("*") if file.suffix in _ROW_FILES) if path.is_dir() else [path]
    return [_file(file) for file in files[:_MOST_FILES] if file.is_file()]


def _file(file: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"file": str(file), "bytes": file.stat().st_size}
    if file.suffix == ".parquet":
        try:
            schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {file}: {error}; expected a parquet file") from error
        return {**about, "rows": rows, "columns": {field.name: str(field.type) for field in schema}}
    records = json_list(file) if is_json_list(file) else (row.values for row in read_rows(file))
    try:
        first, rows = next(records, {}), 1 + sum(1 for _ in records)
    except DataError as error:
        return {**about, "fault": str(error)}
    return {**about, "rows": rows, "columns": {name: type(value).__name__ for name, value in first.items()}}


def _problems(benchmark: str, data: str) -> dict[str, Any]:
    problems = benchmarks.get(benchmark).load(Path(data))
    if not problems:
        raise DataError(f"{data} holds no row of {benchmark}")
    return {
        "rows": len(problems),
        "published": _PUBLISHED.get(benchmark),
        "splits": dict(sorted(Counter(problem.split for problem in problems).items())),
        "groups": dict(sorted(Counter(problem.group for problem in problems).items())),
        "first": _shown(problems[0]),
    }


def _shown(problem: Problem) -> dict[str, Any]:
    sizes = [read_header(image, "an image") for image in problem.images]
    return {
        "id": problem.id,
        "question": problem.question[:_SHOWN],
        "images": [f"{image.format} {image.width}x{image.height}" for image in sizes],
        "answer": problem.answer,
    }


def _chains(name: str, data: str) -> dict[str, Any]:
    rows = list(CHAINS[name](Path(data)))
    if not rows:
        raise DataError(f"{data} holds no row of {name}")
    first = {key: _short(getattr(rows[0], key)) for key in rows[0].__dataclass_fields__}
    return {"rows": len(rows), "first": first}


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        image = read_header(value, "an image")
        return f"{image.format} {image.width}x{image.height}"
    return [_short(item) for item in value] if isinstance(value, tuple) else str(value)[:_SHOWN]


def _print(found: dict[str, Any]) -> None:
    for file in found["files"]:
        rows = f", {file['rows']} rows" if "rows" in file else ""
        print_line(f"{file['file']}: {file['bytes']} bytes{rows}")
        for name, kind in islice(file.get("columns", {}).items(), 40):
            print_line(f"  {name}: {kind}")
        if "fault" in file:
            print_line(f"  {file['fault']}", "yellow")
    if found["kinds"]:
        print_line("all files: " + ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items()))
    if "rows" in found:
        published = f" (published: {found['published']})" if found.get("published") else ""
        print_line(f"{found['benchmark']}: {found['rows']} rows{published}")
    for split, count in found.get("splits", {}).items():
        print_line(f"  split {split}: {count}")
    for group, count in found.get("groups", {}).items():
        print_line(f"  {group}: {count}")
    for name, value in found.get("first", {}).items():
        print_line(f"first row, {name}: {value}")
