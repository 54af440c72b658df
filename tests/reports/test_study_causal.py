"""The causal effect of latents over the seeds of a study: hand-computed numbers on constructed measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.analysis.result_files import write_result
from mirage_core.analysis.results import InterventionsResult
from mirage_core.evaluation.statistics import paired_interval, wilson
from mirage_core.reports.study.causal import Causal, causal_of
from mirage_core.reports.study.inputs import StudyReportInput
from mirage_core.reports.study.report import write_study
from tests.analysis import fake_results
from tests.studies.answers import BENCHMARK, cell, folders, run, scored, study
from tests.studies.latents import measured


def known(result: Causal | None) -> Causal:
    assert result is not None
    return result


def test_one_seed_has_the_measures_own_figures_and_intervals() -> None:
    """80 of 100 right; exchanged, 72 of them are lost and 2 others won: 10 right, a change of -70 points."""
    result = known(causal_of({1: measured(72, 2, 65)}, same_problems=False))

    assert (result.own.mean, result.permuted.mean, result.zero.mean) == (0.8, 0.1, 0.1)
    assert result.change.mean == pytest.approx(-0.7)
    assert result.change.interval == pytest.approx(paired_interval(8, 2, 72, 18))
    assert result.own.interval == wilson(80, 100)
    assert result.follow is not None and result.follow_clean is not None
    assert (result.follow.mean, result.follow_clean.mean) == (0.65, 0.02)
    assert result.effect.mean == pytest.approx(0.7)
    assert result.effect.interval == pytest.approx((-result.change.interval[1], -result.change.interval[0]))


def test_seeds_are_averaged_with_a_t_interval_where_they_differ_more_than_chance() -> None:
    """Changes -0.7, -0.1, -0.4: mean -0.4, deviation 0.3; t(0.975, 2) = 4.3027, so 0.4 +- 0.7453, cut at -1."""
    three = {1: measured(70, 0, 65), 2: measured(10, 0, 5), 3: measured(40, 0, 35)}
    result = known(causal_of(three, same_problems=False))

    assert result.effect.values == pytest.approx((0.7, 0.1, 0.4))
    assert result.effect.mean == pytest.approx(0.4)
    assert result.effect.interval == pytest.approx((0.4 - 0.7453, 1.0), abs=1e-3)
    assert result.follow is not None
    assert result.follow.mean == pytest.approx(0.35)


def test_seeds_that_agree_are_no_surer_than_all_their_answers_pooled() -> None:
    result = known(causal_of({1: measured(70, 0, 60), 2: measured(70, 0, 60)}, same_problems=False))

    assert result.change.interval == pytest.approx(paired_interval(20, 0, 140, 40))
    assert result.own.interval == pytest.approx(wilson(160, 200))


def test_a_seed_whose_answers_have_no_latents_is_left_out_and_a_cell_without_any_has_no_figures() -> None:
    nothing = InterventionsResult(header=fake_results.header("interventions", 0), runs=(), dose=(), latent_std=None)
    result = known(causal_of({1: measured(70, 0, 60), 2: nothing}, same_problems=False))

    assert [item.seed for item in result.by_seed] == [1]
    assert causal_of({1: nothing}, same_problems=False) is None


def report(at: Path, results: dict[str, InterventionsResult], **changes: Any) -> tuple[dict[str, Any], Path]:
    """The report of a direct SFT (60 % right) and of latent cells (70 %), with what was measured of them."""
    names = [name.partition("/")[0] for name in results]
    latent = [
        cell(name, [1], method="stage-2", runs=(run(name, 1).model_copy(
            update={"interventions": f"{name}/1/interventions", "diagnosis": f"mirage diagnose {name}"}
        ),))
        for name in names
    ]  # fmt: skip
    inputs: StudyReportInput = study([cell("direct", [1]), cell("longer", [1]), *latent], [1], "direct")
    inputs = inputs.model_copy(update={"measures": ("interventions",), **changes})
    answers = {"direct/1": "1111110000", "longer/1": "1111111100", **{f"{name}/1": "1111111000" for name in names}}
    answer_folders = folders(at / "answers", {name: scored(right) for name, right in answers.items()})
    for name, result in results.items():
        folder = at / "measured" / name
        folder.mkdir(parents=True)
        write_result(folder, result)
        answer_folders[f"{name}/1/interventions"] = folder
    output = at / "report"
    output.mkdir()
    write_study(output, inputs, answer_folders)
    return json.loads((output / "study.json").read_text()), output


def test_the_report_says_whose_latents_matter_in_every_one_of_its_files(tmp_path: Path) -> None:
    figures, output = report(tmp_path, {"causal": measured(72, 2, 65), "useless": measured(1, 1, 3)})
    by_name = {item["name"]: item["latents"] for item in figures["cells"]}
    page, table = (output / "study.html").read_text(), (output / "table.md").read_text()

    assert (by_name["direct"], by_name["longer"]) == (None, None)
    assert by_name["causal"]["causal_effect"]["mean"] == pytest.approx(0.7)
    assert by_name["useless"]["causal_effect"]["mean"] == 0
    assert by_name["causal"]["by_seed"][0]["swapped"]["follow"]["value"] == 0.65
    assert "Another problem&#39;s latents in place of its own cost accuracy in: causal (70.0 points)." in page
    assert "No measurable cost (interval includes 0): useless (+0.0)." in page
    assert (
        "| causal | 80.0 (71-87) | 10.0 (6-17) | -70.0 (-78 to -58) | 65.0 (55-74) | 2.0 (1-7) | 10.0 (6-17) |" in table
    )
    assert "mirage diagnose useless" in page
    assert (output / "plots" / f"frontier-{BENCHMARK}.png").stat().st_size > 10_000


def test_a_study_that_measures_nothing_has_no_such_section_and_one_without_latents_says_so(tmp_path: Path) -> None:
    for name, changes in (("silent", {"measures": ()}), ("empty", {})):
        (tmp_path / name).mkdir()
        _, output = report(tmp_path / name, {}, **changes)
        page = (output / "study.html").read_text()

        assert ("Do the latents matter?" in page) is (name == "empty")
        assert ("answers with latents that could be exchanged" in page) is (name == "empty")
        assert "own latents" not in (output / "table.md").read_text()
        assert not list((output / "plots").glob("frontier*"))


def test_the_frontier_has_a_point_a_latent_cell_and_the_direct_cells_as_lines(tmp_path: Path) -> None:
    from mirage_core.reports.plots import LIGHT
    from mirage_core.reports.study import frontier
    from mirage_core.reports.study.table import table_of

    latent = cell("causal", [1], method="stage-2", runs=(
        run("causal", 1).model_copy(update={"interventions": "i"}),
    ))  # fmt: skip
    inputs = study(
        [cell("direct", [1]), cell("longer", [1]), cell("asked", [1], method="zero-shot"), latent], [1], "direct"
    )
    answers = {"direct/1": "110", "longer/1": "111", "asked/1": "000", "causal/1": "100"}
    table = table_of(inputs, {name: scored(right) for name, right in answers.items()}, {"i": measured(72, 2, 65)})
    axes = frontier.draw_frontier(table, BENCHMARK, LIGHT).axes[0]

    levels = [tuple(line.get_ydata()) for line in axes.lines if line.get_linestyle() in ("--", ":")]
    dots = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert levels == [(pytest.approx(2 / 3),) * 2, (1.0, 1.0)], "zero-shot is neither"
    assert dots == [pytest.approx((0.7, 1 / 3))]
    assert {text.get_text() for text in axes.texts} == {"1  direct", "2  longer", "4  causal"}
