"""The diagnosis page: complete, self-contained, escaped, the same bytes every time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.blind import text_rule_rows
from mirage_core.reports.diagnosis.figures import figures
from mirage_core.reports.diagnosis.page import LIMITS, Sources, Subject, command, write_diagnosis
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem
from tests.analysis import fake_results
from tests.evaluation.fake_run import small_settings

SETTINGS = small_settings(test_per_level=1).model_copy(update={"analysis": AnalysisSettings(instances=37)})
SUBJECT = Subject(model="model/0123abcd", digest="f" * 64, made_by="relaxation")
pytestmark = pytest.mark.xdist_group("diagnosis-page")  # the page that all read is written once

MEASURES = ("similarity", "probes", "interventions", "mediation", "only-latents", "text-chain", "film", "hand-made")


@pytest.fixture(scope="module")
def problem() -> Problem:
    problems = generate_problems(SETTINGS.problems, SETTINGS.seed, lambda event: None)
    return next(each for each in problems if each.split == "test" and each.benchmark == "vsp-planning")


@pytest.fixture(scope="module")
def sources(problem: Problem) -> Sources:
    drawn = draw_auxiliary_images([problem], SETTINGS.auxiliary_images, 64, 0, lambda event: None)[0]
    exchanged = [
        fake_results.run("permute", way=way, seen=seen, **figures)
        for way, seen, figures in (
            ("vectors", "present", fake_results.USELESS),
            ("states", "present", fake_results.USELESS),
            ("vectors", "cut", fake_results.CAUSAL),
        )
    ]  # fmt: skip
    return Sources(
        settings=SETTINGS,
        subject=SUBJECT,
        results=fake_results.everything(*exchanged),
        lens=fake_results.lens(problem.id),
        problems={problem.id: problem},
        auxiliary={problem.id: drawn.image},
        accuracies=tuple(text_rule_rows([], [problem], "mirage")),
    )


def test_the_rule_from_text_alone_stands_on_the_page(written: Path) -> None:
    assert "text alone, by rule" in (written / "diagnosis.html").read_text()
    rows = json.loads((written / "diagnosis.json").read_text())["accuracies"]
    assert {row["method"] for row in rows} == {"blind-text-rule"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Path:
    output = tmp_path_factory.mktemp("diagnosis")
    write_diagnosis(output, sources)
    return output


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "diagnosis.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Open tags that were never closed, and the addresses a page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "source", "link", "input"):
            self.open.append(tag)
        self.asked += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_the_network_for_nothing_and_its_tags_close(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith(("#", "data:image/")) for address in tags.asked)
    assert "@import" not in page and "url(" not in page


def test_a_phone_can_read_it(page: str) -> None:
    assert 'name="viewport"' in page
    assert page.count("<table>") == page.count('<div class="scroll"><table>')


def test_the_verdict_stands_first_with_its_rules_and_figures(page: str) -> None:
    heading = re.search(r"<h1>(.*?)</h1>", page)
    assert heading and "Do latents carry the input? Yes." in heading.group(1)
    assert "Not shown by n = 200" in heading.group(1)
    assert "fixed before any figure was seen" in page
    assert "image cut off after the latents" in page


def test_every_measure_has_its_plot_and_its_table(page: str, written: Path) -> None:
    plots = {path.name for path in (written / "plots").iterdir()}
    wanted = {
        "changes-present",
        "changes-cut",
        "dose",
        "mediation",
        "only-latents",
        "text-chain",
        "probes",
        "similarity",
        "intra",
        "film",
    }
    assert {f"{name}.png" for name in (*wanted, "plane-answer-start", "plane-verdict")} == plots
    for words in ("another problem&#39;s latents", "noise added x 4", "indirect", "the most frequent answer",
                  "next-move", "effective rank", "another problem&#39;s chain",
                  "Do latents match their own image?"):  # fmt: skip
        assert words in page


def test_a_lens_shows_the_average_latent_and_says_where_it_shows_nothing_else(page: str) -> None:
    assert page.count("the average latent</figcaption>") == 4
    assert "shows nothing of its own" in page


def test_films_stand_on_the_page_with_a_verdict_by_step(page: str) -> None:
    assert "most of the others leave the truth at step 2 (25 of 200 films)" in page
    assert "the answer goes with it in 75.0 %" in page
    strip = page.partition("What its latents imagine")[2].partition("</div>\n      <p")[0]
    assert strip.count("<img") == 2 * 2 and strip.count('class="wrong"') == 2  # imagined and true, two latents
    assert "row 1, column 2 (0.90), &lt;i&gt;ice&lt;/i&gt; (0.75); true: row 1, column 1, ice" in strip


def test_hand_made_films_stand_on_the_page_with_a_verdict_and_what_was_left_out(page: str) -> None:
    assert "The answer follows a film of another outcome, fed as vectors (image in view): it is what the film" in page
    assert "Not shown by n = 200 that the answer follows a film of another outcome, fed as keys and values" in page
    assert "with own latents in 2.0 %, with noise in 10.0 %" in page
    assert "a neighbouring cell, of the same kind" in page
    assert "Without a film: 7: no map is known, so no other path is." in page


def test_what_models_wrote_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;{{ settings }}&lt;/b&gt;" in page


def test_the_same_sources_give_the_same_bytes(sources: Sources, tmp_path: Path) -> None:
    some = replace(sources, results={"probes": sources.results["probes"]})
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_diagnosis(tmp_path / name, some)
    files = [path for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 5
    for path in files:
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


def test_the_figures_stand_beside_the_page_as_json(written: Path) -> None:
    figures = json.loads((written / "diagnosis.json").read_text(encoding="utf-8"))
    assert set(figures["measures"]) == set(MEASURES)
    assert figures["verdict"]["edges"][0]["edge"] == "X -> Z"
    assert figures["model"]["path"] == SUBJECT.model
    assert figures["limits"] == list(LIMITS)


def test_the_command_makes_it_again(sources: Sources, page: str) -> None:
    assert command(sources) == (
        f"mirage diagnose model/0123abcd --measures {','.join(MEASURES)} --set 'analysis.instances=37'"
    )
    assert "mirage diagnose model/0123abcd" in page
    analysis = sources.settings.analysis.model_copy(update={"span_latents": 9})
    longer = replace(sources, settings=sources.settings.model_copy(update={"analysis": analysis}))
    assert command(longer).endswith("--set 'analysis.instances=37' --set 'analysis.span_latents=9'")


@pytest.mark.parametrize("measure", MEASURES)
def test_one_measure_alone_makes_a_page_too(measure: str, sources: Sources, tmp_path: Path) -> None:
    alone = Sources(
        settings=SETTINGS, subject=SUBJECT, results={measure: sources.results[measure]}, lens=None, problems={},
        auxiliary={},
    )  # fmt: skip
    summary = write_diagnosis(tmp_path, alone)
    if measure == "text-chain":
        assert summary["headline"] == "Do the words before the answer drive it? Yes."
    elif measure not in ("probes", "interventions"):
        assert summary["headline"] == "Neither edge was measured."
    Tags().feed((tmp_path / "diagnosis.html").read_text(encoding="utf-8"))


def test_the_latents_alone_are_drawn_beside_the_text_only_rule_where_it_is_known() -> None:
    result = fake_results.only_latents()
    benchmark = result.chance[0].benchmark
    chance = {each.benchmark: each.majority for each in result.chance if each.group == "all"}

    def drawn(blind: dict[str, float]) -> bytes:
        return figures({"only-latents": result}, None, blind)["only-latents"].light

    assert drawn({}) != drawn({benchmark: chance[benchmark]}), "it is named"
    assert drawn({benchmark: 0.9}) != drawn({benchmark: 0.1}), "and drawn where it is"
    assert drawn({"another": 0.9}) == drawn({})
