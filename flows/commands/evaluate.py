"""``mirage evaluate``: judge a model on a file of the published layout, or on the newest run's test problems."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.commands.printing import aside, console
from flows.trained import artifact_of, checkpoint, newest_trained, use_task
from mirage_core import benchmarks
from mirage_core.benchmarks.auxiliary_input import has_auxiliary_input
from mirage_core.errors import DataError, InputError
from mirage_core.pipeline.pipeline import test_of
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, load_problems
from mirage_core.types import Problem, ProgressEvent
from tasks.log_lines import line_of
from tasks.paths import open_store


def evaluate(
    benchmark: str,
    data: Path | None,
    reference: str | None,
    method: str | None,
    store: str | None,
    *,
    save: Path | None = None,
    as_json: bool,
) -> None:
    """Answer, judge, and print accuracy with its interval for every level."""
    opened = open_store(store)
    use_task(benchmark, reference, opened)
    problems, source = problems_of(benchmark, data, opened)
    chosen = checkpoint(reference, method, opened)
    check_shown(chosen.method, problems)
    aside.print(f"{chosen.name} ({chosen.method}) on {len(problems)} problems of {source}", markup=False)

    from mirage_core.evaluation.evaluate import evaluate as judge
    from mirage_core.pipeline.stages.evaluate import latents_of

    with tempfile.TemporaryDirectory(prefix="mirage-evaluate-") as folder:
        metrics = judge(
            chosen.folder,
            problems,
            settings=chosen.settings,
            method=chosen.method,
            latents=latents_of(chosen.method),
            output=Path(folder) / "output",
            scratch=Path(folder) / "scratch",
            progress=say,
        )
        if save is not None:
            shutil.copyfile(Path(folder) / "output" / PREDICTIONS_FILE, save)
    tell({"benchmark": benchmark, "checkpoint": chosen.name, "data": source, **metrics}, as_json=as_json)


def check_shown(method: str, problems: Sequence[Problem]) -> None:
    """InputError where a model that was trained to see the auxiliary picture would not be shown it."""
    if test_of(method) != "problems" and not all(has_auxiliary_input(problem) for problem in problems):
        raise InputError(
            f"the method {method} is shown each problem's auxiliary picture, and these problems have none among their "
            f"images: its scores come with `mirage run --set 'evaluation.methods=[{method}]'`, or with a study"
        )


def tell(metrics: dict[str, Any], *, as_json: bool) -> None:
    """Print the metrics."""
    if as_json:
        console.print_json(json.dumps(metrics))
    else:
        show(metrics)


def show(metrics: dict[str, Any]) -> None:
    """The table, and the score over all orders of the options where the benchmark asks in several."""
    console.print(table_of(metrics))
    for row in metrics.get("protocols", []):
        if row["group"] == "all":
            console.print(protocol_line(row), markup=False)


def protocol_line(row: dict[str, Any]) -> str:
    """A protocol score in one line."""
    low, high = row["interval"]
    return (
        f"{row['protocol']}: mean over {row['orders']} orders {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) of "
        f"{row['questions']} questions; right in every order {row['consistent']:.1%}"
    )


def problems_of(benchmark: str, data: Path | None, store: Store) -> tuple[list[Problem], str]:
    """The problems to answer, and where they are from; DataError when there are none."""
    rules = benchmarks.get(benchmark)
    if data is not None:
        return rules.load(data), str(data)
    if benchmark in benchmarks.PUBLIC and rules.source:
        return rules.load(Path(rules.source)), rules.source
    record = newest_trained(store)
    artifact = artifact_of(store, record, "problems")
    found = [given for given in load_problems(store.fetch(artifact), split="test") if given.benchmark == benchmark]
    if not found:
        raise DataError(f"{artifact.path} holds no test problems of {benchmark}: give a file with --data")
    return found, f"{artifact.path} (test)"


def table_of(metrics: dict[str, Any]) -> Table:
    """The rows of the metrics, a level a row."""
    table = Table(
        "level", "accuracy", "95 % interval", "n", "unparsed", "used latents", "rule", box=None, pad_edge=False
    )
    for row in metrics["rows"]:
        low, high = row["interval"]
        table.add_row(
            str(row["group"]).removeprefix("level-"), f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}",
            str(row["n"]), str(row["unparsed"]), f"{row['latent_share']:.0%}", row["rule"],
        )  # fmt: skip
    return table


def say(event: ProgressEvent) -> None:
    """Progress goes to stderr, so that --json stays JSON."""
    aside.print(line_of(event.stage, event), markup=False)
