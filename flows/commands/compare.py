"""``mirage compare``: two evaluations, models or prediction files on the same problems, in a table and on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from flows.commands.printing import aside, console
from flows.commands.score import rows_of
from flows.trained import use_task
from mirage_core.errors import ArtifactMissing, InputError
from mirage_core.evaluation.compare import Comparison, Side, compare_sides
from mirage_core.evaluation.predictions_file import judged, read_outputs
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions, load_problems
from mirage_core.types import Artifact, Problem
from tasks.paths import open_store

LISTED = 20
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
    """Compare, print the lines and what flipped, and write the page where one is asked for."""
    opened = open_store(store)
    given: Problems = {}
    if benchmark is not None:
        use_task(benchmark, None, opened)
        given = {problem.id: problem for problem in rows_of(benchmark, data, opened)[0]}
    (first, known), (second, others) = (_side(name, benchmark, given, rule, opened) for name in references)
    if first.name == second.name:
        first, second = (
            replace(side, name=f"{side.name} ({name})") for side, name in zip((first, second), references, strict=True)
        )
    problems = {**known, **others, **given}
    comparison = compare_sides(first, second, problems, common=common)
    if page is not None:
        from mirage_core.reports.compare_page import compare_html

        page.write_text(compare_html(comparison, first, second, problems, shown=shown), encoding="utf-8")
    if as_json:
        console.print_json(json.dumps({**comparison.as_json(), "page": str(page) if page else None}))
        return
    show(comparison)
    if page is not None:
        console.print(f"page: {page}", markup=False)


def show(comparison: Comparison) -> None:
    """The lines as a table, and the first problems that flipped."""
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
        found = [flip.problem_id for flip in comparison.flips if flip.right == side]
        more = f" ... and {len(found) - LISTED} more (--json, --page)" if len(found) > LISTED else ""
        console.print(f"only {name} right: {len(found)}  {', '.join(found[:LISTED])}{more}", markup=False)
    if comparison.left_out:
        aside.print(f"{comparison.left_out} problems that only one of them answered are left out", style="yellow")


def _side(
    reference: str, benchmark: str | None, given: Problems, rule: str | None, store: Store
) -> tuple[Side, Problems]:
    """One side, and the problems it brings: a file or folder of predictions, or an artifact of the store."""
    path = Path(reference).expanduser()
    if path.suffix == ".jsonl":
        if benchmark is None:
            raise InputError(f"{reference} holds answers alone: say whose with --benchmark (and --data)")
        outputs = read_outputs(path, benchmark, list(given.values()), partial=True)
        scored = judged(benchmark, list(given.values()), outputs.texts, method=path.stem, rule=rule)
        return Side(name=path.stem, scored=tuple(scored)), {}
    if path.suffix == ".parquet" or (path / PREDICTIONS_FILE).is_file():
        pairs = load_predictions(path)
        return Side(name=pairs[0][0].method if pairs else path.stem, scored=tuple(pairs)), {}
    artifact = _evaluation(store.get(reference), store)
    pairs = load_predictions(store.fetch(artifact))
    return Side(name=pairs[0][0].method, scored=tuple(pairs)), _problems_of(artifact, store)


def _evaluation(artifact: Artifact, store: Store) -> Artifact:
    """The artifact itself, or the one evaluation of a model."""
    if artifact.kind == "evaluation":
        return artifact
    if artifact.kind != "model":
        raise InputError(f"{artifact.path} is a {artifact.kind}, expected an evaluation or a model")
    found = [one for one in store.list("evaluation") if _input(one, "model", store) == artifact.digest]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ArtifactMissing(
            f"no evaluation of {artifact.path} in {store.url}: `mirage evaluate --save FILE` makes one"
        )
    raise InputError(f"{artifact.path} has {len(found)} evaluations, name one: {', '.join(one.path for one in found)}")


def _problems_of(evaluation: Artifact, store: Store) -> Problems:
    """The problems an evaluation was made on, none where they are no longer in the store."""
    told = store.manifest(evaluation).about.get("inputs", {}).get("problems", {})
    try:
        artifact = store.get(str(told.get("path")))
    except ArtifactMissing:
        return {}
    return {problem.id: problem for problem in load_problems(store.fetch(artifact), split="test")}


def _input(artifact: Artifact, name: str, store: Store) -> str | None:
    digest = store.manifest(artifact).about.get("inputs", {}).get(name, {}).get("digest")
    return str(digest) if digest else None
