"""A model folder, and the rows of a benchmark, as artifacts of the store: so that they can be diagnosed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.trained import find_checkpoint
from mirage_core import benchmarks
from mirage_core.config import identity
from mirage_core.errors import InputError
from mirage_core.methods import get_method
from mirage_core.store import Store
from mirage_core.store.manifest import describe_folder, digest_of
from mirage_core.store.records import PROBLEMS_FILE, save_problems
from mirage_core.types import Artifact


def is_model_folder(reference: str | None) -> bool:
    """Return whether a reference is a folder with a model on this machine."""
    return bool(reference) and (Path(str(reference)).expanduser() / "config.json").is_file()


def stored_model(store: Store, folder: str, method: str | None) -> Artifact:
    """Copy a model folder into the store, once for its content; its manifest says which method uses it.

    InputError for a model that no method of this project, LVR or Monet made, unless ``method`` names one.
    """
    path = Path(folder).expanduser().resolve()
    checkpoint = find_checkpoint(str(path), method, store)
    stage = get_method(checkpoint.method).stage
    if stage == "base":
        raise InputError(
            f"{folder} does not tell which method made it (no mirage.json, and no tokens of LVR or Monet): name it, "
            "for example --method stage-2"
        )
    about = {"stage": stage, "settings": identity(checkpoint.settings), "source": str(path)}
    fingerprint = digest_of(describe_folder(path))
    return store.publish("model", fingerprint, path, summary={"folder": path.name}, about=about)


def stored_problems(store: Store, benchmark: str, data: Path | None) -> Artifact:
    """Read the rows of a benchmark and store them as problems, once for their content.

    InputError without ``data`` where the benchmark has no published source; DataError for rows that do not fit.
    """
    rules = benchmarks.get(benchmark)
    source = data or (Path(rules.source) if rules.source else None)
    if source is None:
        raise InputError(f"--benchmark {benchmark} has no published source: give its rows with --data")
    problems = rules.load(source)
    with tempfile.TemporaryDirectory(prefix="mirage-problems-") as folder:
        save_problems(Path(folder) / PROBLEMS_FILE, problems)
        fingerprint = digest_of(describe_folder(Path(folder)))
        about = {"stage": "problems", "source": str(source)}
        summary = {"problems": len(problems)}
        return store.publish("problems", fingerprint, Path(folder), summary=summary, about=about)
