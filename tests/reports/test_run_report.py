"""The report as a whole: complete, self-contained, truthful, and the same bytes every time."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mirage_core.config import Settings
from mirage_core.errors import DataError
from mirage_core.recipes import load
from mirage_core.reports.labels import short_label
from mirage_core.reports.run.findings import caveats, comparisons, findings, headline
from mirage_core.reports.run.inputs import RunReportInputs, read_inputs
from mirage_core.reports.run.report import write_report
from mirage_core.reports.run.training_noise import TrainingNoise, training_noise
from mirage_core.store.records import load_predictions, save_predictions
from tests.evaluation.fake_run import SKILL, fake_run, small_settings

pytestmark = pytest.mark.xdist_group("run-report")  # the report that all read is written once


@pytest.fixture(scope="module")
def settings() -> Settings:
    return small_settings()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> dict[str, Path]:
    return fake_run(tmp_path_factory.mktemp("run"), settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, settings: Settings, folders: dict[str, Path]) -> Path:
    output = tmp_path_factory.mktemp("report")
    write_report(output, settings, folders)
    return output


def with_answers(folders: dict[str, Path], folder: Path, right: dict[str, Sequence[bool]]) -> dict[str, Path]:
    """The run with the verdicts of some methods replaced, problem by problem in turn."""
    changed = dict(folders)
    for method, verdicts in right.items():
        scored = load_predictions(folders[f"evaluation/{method}"] / "predictions.parquet")
        for index, (_, score) in enumerate(scored):
            object.__setattr__(score, "correct", verdicts[index % len(verdicts)])
        changed[f"evaluation/{method}"] = folder / method
        (folder / method).mkdir()
        save_predictions(folder / method / "predictions.parquet", scored)
    return changed


def test_accuracies_stand_beside_what_is_right_without_the_picture(
    written: Path, folders: dict[str, Path], settings: Settings
) -> None:
    figures, page = json.loads((written / "report.json").read_text()), (written / "report.html").read_text()
    blind = {(row["benchmark"], row["method"]) for row in figures["blind_rows"]}
    inputs = read_inputs(settings, folders)
    assert blind == {(benchmark, "blind-text-rule") for benchmark in inputs.benchmarks}
    assert page.count("text alone, by rule") >= len(inputs.benchmarks)
    assert "from the text alone" in figures["headline"]
    assert sum("right without the picture" in sentence for sentence in figures["findings"]) == len(inputs.benchmarks)
    rows = {(row["benchmark"], row["method"], row["group"]): row["n"] for row in figures["rows"]}
    for row in figures["blind_rows"]:
        assert row["n"] == rows[row["benchmark"], inputs.methods[0], row["group"]]


def test_a_method_is_above_the_blind_rule_only_by_a_paired_test(
    folders: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    first, *others = read_inputs(settings, folders).methods
    verdicts: dict[str, Sequence[bool]] = {first: [True], **{method: [False] for method in others}}
    (tmp_path / "same").mkdir()
    said = [
        each for each in findings(read_inputs(settings, with_answers(folders, tmp_path, verdicts))) if "picture" in each
    ]
    assert said
    assert all(short_label(first) in sentence for sentence in said)
    assert not any(short_label(method) in sentence for sentence in said for method in others)


def test_answers_without_the_picture_have_a_line_of_their_own(
    folders: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    scored = load_predictions(folders["evaluation/stage-2"] / "predictions.parquet")
    blind = [(replace(prediction, method="stage-2-blind"), score) for prediction, score in scored]
    (tmp_path / "blind").mkdir()
    save_predictions(tmp_path / "blind" / "predictions.parquet", blind)
    judged = {name: path for name, path in folders.items() if name == "problems" or name.startswith("evaluation/")}
    write_report(tmp_path / "out", settings, {**judged, "blind-evaluation/stage-2": tmp_path / "blind"})
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["method"] for row in figures["blind_rows"]} == {"blind-text-rule", "stage-2-blind"}
    assert {row["method"] for row in figures["rows"]}.isdisjoint({"blind-text-rule", "stage-2-blind"})
    assert "no picture" in (tmp_path / "out" / "report.html").read_text()


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert not re.search(r"""(src|href|srcset)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_every_part_of_the_report_is_there(written: Path) -> None:
    page = (written / "report.html").read_text()
    for part in ("means", "scores", "trajectories", "curves", "data", "again"):
        assert f'id="{part}"' in page
    names = {path.relative_to(written).as_posix() for path in written.rglob("*.png")}
    assert {"scores.png", "trajectory.png", "plots/scores-vsp-planning.png", "plots/grounding-cosine.png",
            "plots/base-loss.png", "plots/grpo-reward.png", "plots/relaxation-loss.png"} <= names  # fmt: skip


def test_what_a_model_wrote_is_escaped_and_never_a_template(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "&lt;|object_ref|&gt;{{ settings }} &lt;b&gt;" in page


def test_latents_stand_in_the_text_as_marks(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "<latents:" not in page
    assert "4 latents</span>\\boxed{" in page


def test_published_figures_are_marked_as_the_papers(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "not a result of ours" in page
    assert re.search(r'<td class="paper">76\.0<small>Mirage direct</small>', page)
    figures = json.loads((written / "report.json").read_text())
    assert {number["source"] for number in figures["published_not_ours"]} == {"Mirage, arXiv 2506.17218, Qwen2.5-VL 7B"}
    assert all("source" not in score for score in figures["scores"])


def test_the_figures_as_json_agree_with_the_answers(written: Path, folders: dict[str, Path]) -> None:
    figures = json.loads((written / "report.json").read_text())
    scored = load_predictions(folders["evaluation/stage-2"] / "predictions.parquet")
    planning = [score.correct for prediction, score in scored if prediction.benchmark == "vsp-planning"]
    (row,) = [
        score
        for score in figures["scores"]
        if (score["benchmark"], score["method"], score["level"]) == ("vsp-planning", "stage-2", "all")
    ]
    assert row["accuracy"] == pytest.approx(sum(planning) / len(planning))
    assert row["n"] == len(planning) == 16
    assert set(row) >= {"benchmark", "method", "level", "accuracy", "interval", "n", "unparsed"}


def test_the_same_run_gives_the_same_bytes(
    written: Path, tmp_path: Path, settings: Settings, folders: dict[str, Path]
) -> None:
    other = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"processes": 7})})
    write_report(tmp_path, other, dict(reversed(folders.items())))
    for path in sorted(path for path in written.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes(), path.name


def test_a_run_with_little_in_it_is_still_reported(
    tmp_path: Path, settings: Settings, folders: dict[str, Path]
) -> None:
    summary = write_report(tmp_path / "nothing", settings, {})
    assert summary["headline"] == "Nothing has been evaluated yet."
    some = {name: folders[name] for name in ("problems", "base", "evaluation/zero-shot")}
    summary = write_report(tmp_path / "some", settings, some)
    assert summary["headline"].startswith("One run: Zero-shot solves")
    assert (tmp_path / "some" / "trajectory.png").is_file()


def test_answers_of_another_method_are_refused(tmp_path: Path, settings: Settings, folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="direct-sft"):
        write_report(tmp_path, settings, {"evaluation/stage-2": folders["evaluation/direct-sft"]})


@pytest.mark.parametrize(
    ("stage_2", "direct", "expected"),
    [
        ([True], [True, True, True, True, False], "cannot tell from chance"),
        ([True, False], [True, False], "direct SFT solves 50.0 % too"),
        (
            [True],
            [False],
            "direct SFT solves 0 %, which is less (p = 0.008 over the problems; training noise is not known).",
        ),
        ([False], [True], "direct SFT solves 100 %, which is more"),
    ],
)
def test_the_headline_says_what_the_paired_test_allows(
    tmp_path: Path, settings: Settings, folders: dict[str, Path], stage_2: list, direct: list, expected: str
) -> None:
    changed = with_answers(folders, tmp_path, {"stage-2": stage_2, "direct-sft": direct})
    assert expected in headline(read_inputs(settings, changed))


def test_a_film_is_compared_with_direct_sft_in_the_headline_the_findings_and_the_tests(
    tmp_path: Path, settings: Settings, folders: dict[str, Path]
) -> None:
    changed = with_answers(folders, tmp_path, {"stage-2": [True], "direct-sft": [False]})
    scored = load_predictions(changed["evaluation/stage-2"] / "predictions.parquet")
    film = [(replace(prediction, method="film"), score) for prediction, score in scored]
    (tmp_path / "film").mkdir()
    save_predictions(tmp_path / "film" / "predictions.parquet", film)
    judged = {"evaluation/direct-sft": changed["evaluation/direct-sft"], "evaluation/film": tmp_path / "film"}
    read = read_inputs(settings, judged)
    assert headline(read).startswith("One run: Mirage with the film solves 100 % of")
    assert "direct SFT solves 0 %, which is less" in headline(read)
    assert any(sentence.startswith("The film beats direct SFT: 100 % against 0 %") for sentence in findings(read))
    tests = {(each.test.first, each.test.second) for each in comparisons(read)}
    assert tests == {("film", "direct-sft")}


def test_one_run_is_not_said_to_win_by_less_than_the_noise_of_training(
    tmp_path: Path, settings: Settings, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = with_answers(folders, tmp_path, {"stage-2": [True], "direct-sft": [False]})
    read = read_inputs(settings, changed)
    noise = TrainingNoise(half_width=0.4, seeds=3, study="imagination")
    monkeypatch.setattr("mirage_core.reports.run.findings.training_noise", lambda *asked: noise)
    words = "which is less: +100.0 points (+60.0 to +140.0 with the noise of training, from 3 seeds of the study imagi"
    assert words in headline(read) and "chance" not in headline(read)
    monkeypatch.setattr("mirage_core.reports.run.findings.training_noise", lambda *asked: replace(noise, half_width=1))
    assert headline(read).endswith("imagination): a difference that one run cannot tell from chance.")


def test_training_noise_is_of_the_recipe_that_the_study_trained() -> None:
    levels, methods = ("level-3", "level-4"), ("film", "direct-sft")
    for sets in ([], ["seed=7", "runtime.processes=1", "evaluation.methods=[film]"]):
        noise = training_noise(load("tiny", sets), "vsp-planning", levels, *methods)
        assert noise is not None and (noise.seeds, noise.study) == (3, "imagination")
        # Both levels together: -0.01, 0 and 0.0033; t(2) is 4.303.
        assert noise.half_width == pytest.approx(4.303 * statistics.stdev([-0.01, 0.0, 0.0033]), abs=1e-4)
    assert training_noise(load("tiny", ["film.steps=1400"]), "vsp-planning", levels, *methods) is None
    assert training_noise(load("tiny"), "vsp-planning", levels, "stage-2", "direct-sft") is None
    assert training_noise(load("tiny"), "vsp-planning", ("level-9",), *methods) is None
    assert training_noise(load("micro"), "vsp-planning", levels, *methods) is None


def inputs(settings: Settings, folders: dict[str, Path]) -> RunReportInputs:
    return read_inputs(settings, folders)


def test_the_page_says_with_which_arithmetic_its_models_were_trained(written: Path) -> None:
    assert "Arithmetic of the training: CPU, AVX2; CPU, AVX512." in (written / "report.html").read_text()
    assert json.loads((written / "report.json").read_text())["arithmetic"] == ["CPU, AVX2", "CPU, AVX512"]


def test_the_page_states_its_base_its_teacher_and_its_one_seed(settings: Settings, folders: dict[str, Path]) -> None:
    text = " ".join(caveats(inputs(settings, folders)))
    for fact in ("trained from scratch", "replaces a pretrained model", "oracle", "One training seed"):
        assert fact in text


def test_findings_name_the_comparisons_and_the_unread_answers(settings: Settings, folders: dict[str, Path]) -> None:
    text = " ".join(findings(inputs(settings, folders)))
    for fact in ("the base model as it is", "stage 1 alone", "direct SFT", "GRPO after stage 2", "could not be read",
                 "direct SFT had 600 text-supervised steps; Mirage had 300 in stage 2, after 120"):  # fmt: skip
        assert fact in text


def test_budgets_tell_text_supervised_steps_from_all_steps(written: Path) -> None:
    budgets = {budget["method"]: budget for budget in json.loads((written / "report.json").read_text())["budgets"]}
    assert list(budgets) == list(SKILL)
    assert (budgets["direct-sft"]["text_steps"], budgets["direct-sft"]["optimizer_steps"]) == (600, 600)
    # Grounding has no steps in these settings: its curves say how many there were.
    assert (budgets["stage-2"]["text_steps"], budgets["stage-2"]["optimizer_steps"]) == (300, 420)
    assert budgets["grpo"]["policy_updates"] == 100
    assert budgets["stage-2"]["examples"] == 300 * 32 + 120
