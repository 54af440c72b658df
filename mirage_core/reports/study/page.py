"""The report of a study as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mirage_core.evaluation.metrics import ALL
from mirage_core.reports.figures import Figure
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import RULES, benchmark_label, group_label
from mirage_core.reports.run.findings import p_words, percent
from mirage_core.reports.study.findings import caveats, findings, headline, latents_matter
from mirage_core.reports.study.table import Table


def study_html(table: Table, figures: Mapping[str, Sequence[Figure]], frontiers: Sequence[Figure] = ()) -> str:
    """Render the page; values from files are escaped."""
    environment = page_environment(
        points=lambda value: f"{100 * value:.1f}", signed=lambda value: f"{100 * value:+.1f}", percent=percent,
        p_words=p_words, benchmark=benchmark_label, group=group_label, count=lambda number: f"{number:,.0f}",
    )  # fmt: skip
    return (
        environment.get_template("study.html").render(
            table=table,
            study=table.study,
            figures=figures,
            frontiers=frontiers,
            latents_matter=latents_matter(table),
            all=ALL,
            rules=[RULES.get(rule, f"rule: {rule}") for rule in dict.fromkeys(table.rules.values())],
            headline=headline(table),
            findings=findings(table),
            caveats=caveats(table),
            systems={number.label: number.source for numbers in table.systems.values() for number in numbers},
        )
        + "\n"
    )
