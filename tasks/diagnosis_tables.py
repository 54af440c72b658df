"""A diagnosis for Prefect's UI: the verdict in markdown, the interventions as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mirage_core.store import Store
from mirage_core.types import Artifact

_RUNS = ("measure/interventions", "measure/only-latents", "measure/text-chain")


def verdict_markdown(store: Store, page: Artifact) -> str:
    """The headline, the verdict on every edge, and where the page is."""
    edges = "".join(
        f"- **{edge['edge'].replace('->', '→')}**{_seen(edge)}: {edge['outcome']}. {edge['said']}\n"
        for edge in page.summary.get("edges", ())
    )
    place = f"{store.url}/{page.path}/{page.summary.get('page', '')}"
    return f"# {page.summary.get('headline', 'Diagnosis')}\n\n{edges}\nPage: `{place}`\n"


def runs_table(store: Store, made: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """One row an intervention, of every measure that has some; empty where there is none."""
    from mirage_core.analysis.number_format import (
        nats,
        p_words,
        percent,
        points,
        run_label,
        run_order,
        seen_words,
        shares,
    )
    from mirage_core.analysis.results import read_result, result_kind

    rows: list[dict[str, Any]] = []
    for name in _RUNS:
        if name not in made:
            continue
        measure = name.partition("/")[2]
        result: Any = read_result(store.fetch(made[name]), result_kind(measure))
        rows += [
            {
                "measure": measure,
                "latents are": run_label(run),
                "picture": seen_words(run.seen),
                "n": run.n,
                "accuracy": shares(run.accuracy),
                "change": points(run.change),
                "p": p_words(run.p_value),
                "answers changed": shares(run.changed),
                "KL of the first answer token": nats(run.kl),
                "right for the donor": "–" if run.follow is None else shares(run.follow),
                "clean answers right for it": "–" if run.follow_clean is None else shares(run.follow_clean),
                "unparsed": percent(run.unparsed.value),
            }
            for run in sorted(result.runs, key=run_order)
        ]
    return rows


def _seen(edge: Mapping[str, Any]) -> str:
    from mirage_core.analysis.number_format import seen_words

    return f", {seen_words(edge['seen'])}" if edge.get("seen") else ""
