"""``mirage compare``: two evaluations, models or prediction files on the same problems, in a table and on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from flows.commands.printing import console, print_line, stderr
from flows.commands.score import benchmark_rows
from flows.trained import use_task
from mirage_core.errors import ArtifactMissing, InputError
from mirage_core.evaluation.compare import Comparison, Side, compare_sides
from mirage_core.evaluation.predictions_file import read_outputs, score_outputs
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions, load_problems
from mirage_core.types import Artifact, Problem
from tasks.paths import open_store

MAX_LISTED = 20
Problems = Mapping[str, Problem]


def compare(
    references: tuple[str, str],
    benchmark: str | None,
    data: Path | None,
    *,
    rule: str | None,
    common: bool,
    page: Path | None,
    shown: int,
    store: str | None,
    as_json: bool,
) -> None:
    """Compare, print the table and the problems that flipped, and write the page if requested."""
    opened = open_store(store)
    benchmark_problems: Problems = {}
    if benchmark is not None:
        use_task(benchmark, None, opened)
        benchmark_problems = {problem.id: problem for problem in benchmark_rows(benchmark, data, opened)[0]}
    (first, first_problems), (second, second_problems) = (
        _side(name, benchmark, benchmark_problems, rule, opened) for name in references
    )
    if first.name == second.name:
        first, second = (
            replace(side, name=f"{side.name} ({name})") for side, name in zip((first, second), references, strict=True)
        )
    problems = {**first_problems, **second_problems, **benchmark_problems}
    comparison = compare_sides(first, second, problems, common=common)
    if page is not None:
        from mirage_core.reports.compare_page import compare_html

        page.write_text(compare_html(comparison, first, second, problems, shown=shown), encoding="utf-8")
    if as_json:
        console.print_json(json.dumps({**comparison.as_json(), "page": str(page) if page else None}))
        return
    show(comparison)
    if page is not None:
        print_line(f"page: {page}")


def show(comparison: Comparison) -> None:
    """Print the comparison as a table, and the first problems that flipped."""
    table = Table(
        "benchmark", "group", "n", comparison.first, comparison.second, "difference", "only 1st", "only 2nd", "p",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in comparison.rows:
        low, high = row.interval
        table.add_row(
            row.benchmark, row.name, str(row.n), f"{row.first:.1%}", f"{row.second:.1%}",
            f"{100 * row.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})", str(row.only_first),
            str(row.only_second), f"{row.p_value:.4f}" if row.p_value >= 0.0001 else "< 0.0001",
        )  # fmt: skip
    console.print(table)
    for side, name in (("first", comparison.first), ("second", comparison.second)):
        flipped = [flip.problem_id for flip in comparison.flips if flip.right == side]
        more = f" ... and {len(flipped) - MAX_LISTED} more (--json, --page)" if len(flipped) > MAX_LISTED else ""
        console.print(f"only {name} right: {len(flipped)}  {', '.join(flipped[:MAX_LISTED])}{more}", markup=False)
    if comparison.left_out:
        stderr.print(f"{comparison.left_out} problems that only one side answered are left out", style="yellow")


def _side(
    reference: str, benchmark: str | None, problems: Problems, rule: str | None, store: Store
) -> tuple[Side, Problems]:
    """Return a side (a file or folder of predictions, or an artifact of the store) and the problems it refers to."""
    path = Path(reference).expanduser()
    if path.suffix == ".jsonl":
        if benchmark is None:
            raise InputError(f"{reference} holds only answers: name their benchmark with --benchmark (and --data)")
        outputs = read_outputs(path, benchmark, list(problems.values()), partial=True)
        scored = score_outputs(benchmark, list(problems.values()), outputs.texts, method=path.stem, rule=rule)
        return Side(name=path.stem, scored=tuple(scored)), {}
    if path.suffix == ".parquet" or (path / PREDICTIONS_FILE).is_file():
        pairs = load_predictions(path)
        return Side(name=pairs[0][0].method if pairs else path.stem, scored=tuple(pairs)), {}
    artifact = _evaluation(store.get(reference), store)
    pairs = load_predictions(store.fetch(artifact))
    return Side(name=pairs[0][0].method, scored=tuple(pairs)), _problems_of(artifact, store)


def _evaluation(artifact: Artifact, store: Store) -> Artifact:
    """Return the artifact itself, or the only evaluation of a model."""
    if artifact.kind == "evaluation":
        return artifact
    if artifact.kind != "model":
        raise InputError(f"{artifact.path} is a {artifact.kind}, expected an evaluation or a model")
    evaluations = [each for each in store.list("evaluation") if _input(each, "model", store) == artifact.digest]
    if len(evaluations) == 1:
        return evaluations[0]
    if not evaluations:
        raise ArtifactMissing(
            f"no evaluation of {artifact.path} in {store.url}: `mirage evaluate --save FILE` makes one"
        )
    paths = ", ".join(each.path for each in evaluations)
    raise InputError(f"{artifact.path} has {len(evaluations)} evaluations, name one: {paths}")


def _problems_of(evaluation: Artifact, store: Store) -> Problems:
    """Return the problems of an evaluation; none where they are no longer in the store."""
    reference = store.manifest(evaluation).about.get("inputs", {}).get("problems", {})
    try:
        artifact = store.get(str(reference.get("path")))
    except ArtifactMissing:
        return {}
    return {problem.id: problem for problem in load_problems(store.fetch(artifact), split="test")}


def _input(artifact: Artifact, name: str, store: Store) -> str | None:
    digest = store.manifest(artifact).about.get("inputs", {}).get(name, {}).get("digest")
    return str(digest) if digest else None
