"""V*, HR-Bench, MME-RealWorld-Lite and BLINK Multi-view: rows of the published layouts, official words, judged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks import hr_bench
from mirage_core.benchmarks.io.content_digest import sources_identity
from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import ProblemSettings, PublicData
from mirage_core.errors import DataError, SettingsError
from tests.benchmarks.data_sets import picture, write_parquet
from tests.benchmarks.public_data import (
    hr_bench_folder,
    hr_bench_rows,
    mme_rows,
    multi_view_rows,
    tablevqa_rows,
    vstar_folder,
)


def right(name: str, problems: list[Any], outputs: list[str], rule: str | None = None) -> list[bool]:
    judged = benchmarks.get(name)
    used = {"rule": rule} if rule else {}
    return [judged.score(problem, output, **used).correct for problem, output in zip(problems, outputs, strict=True)]


def test_vstar_questions_stand_in_their_own_words_and_groups(tmp_path: Path) -> None:
    problems = benchmarks.get("vstar").load(vstar_folder(tmp_path))

    assert [problem.id for problem in problems] == ["vstar-0", "vstar-1", "vstar-2", "vstar-3"]
    assert [problem.group for problem in problems] == ["direct_attributes"] * 2 + ["relative_position"] * 2
    assert [problem.answer for problem in problems] == ["A", "B", "A", "B"]
    assert problems[2].facts["official"] == (
        "<image>\nWhat about thing 0 of relative_position?\n(A) left\n(B) right\n"
        "Answer with the option's letter from the given choices directly."
    )
    asked = benchmarks.get("vstar").prompt(problems[2], "benchmark", "direct")
    assert asked.endswith("(B) right\n The final answer MUST BE put in \\boxed{}.")
    assert problems[0].images[0] == (tmp_path / "direct_attributes" / "sa_0.jpg").read_bytes()


def test_vstar_is_the_same_from_its_jsonl_file_and_from_parquet(tmp_path: Path) -> None:
    folder = vstar_folder(tmp_path / "hub")
    rows = [json.loads(line) for line in (folder / "test_questions.jsonl").read_text().splitlines()]
    table = [{**row, "image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}} for row in rows]
    load = benchmarks.get("vstar").load

    assert load(folder / "test_questions.jsonl") == load(folder)
    assert load(write_parquet(tmp_path / "test.parquet", table)) == load(folder)


def test_vstar_annotations_put_the_right_option_in_a_fixed_place(tmp_path: Path) -> None:
    folder = vstar_folder(tmp_path, questions=False)
    problems = benchmarks.get("vstar").load(folder)

    assert [problem.facts["options"]["ABCD".index(problem.answer)] for problem in problems] == ["red"] * 2 + [
        "left"
    ] * 2
    assert {problem.answer for problem in problems} != {"A"}
    assert problems == benchmarks.get("vstar").load(folder)


def test_bare_letters_and_sentences_are_read_as_published_prompts_ask_for_them(tmp_path: Path) -> None:
    (problem, *_) = benchmarks.get("vstar").load(vstar_folder(tmp_path))
    judged = benchmarks.get("vstar").score
    read = {
        "A": "A", "b.": "B", "(C)": "C", "\\boxed{D}": "D", "\\boxed{\\text{B. blue}}": "B", "Answer: C": "C",
        "The correct answer is **B**, since": "B", "<think>(A) or (B)?</think>It is (B), not a fox.": "B",
        "<think>Maybe (D).</think>the blue one": "B",
        "blue or red": None, "Certainly": None, "": None, "bluebird": None, "\\boxed{?} (D)": "D",
    }  # fmt: skip

    assert {output: judged(problem, output).parsed for output in read} == read
    assert judged(problem, "A").rule == "option-letter"


def test_hr_bench_asks_each_question_in_four_rotations_that_share_their_picture(tmp_path: Path) -> None:
    folder = hr_bench_folder(tmp_path)
    problems = benchmarks.get("hr-bench-4k").load(folder)

    assert len(problems) == 8 and len(benchmarks.get("hr-bench-8k").load(folder)) == 4
    asked = [hr_bench.ORDERS.parse_id(problem.id) for problem in problems]
    assert [order for _, order in asked] == [0, 1, 2, 3] * 2
    assert len({question for question, _ in asked}) == 2
    assert [problem.answer for problem in problems[:4]] == ["A", "B", "C", "D"]
    assert problems[0].images[0] is problems[3].images[0]
    assert problems[1].facts["official"] == (
        "<image>\nWhat is question 0?\nA. more\nB. right\nC. wrong 0\nD. other\nAnswer the option letter directly."
    )
    assert right("hr-bench-4k", problems[:4], ["A", "B", "C", "C"]) == [True, True, True, False]


def test_mme_has_its_own_areas_words_and_a_rule_of_its_own(tmp_path: Path) -> None:
    problems = benchmarks.get("mme-realworld-lite").load(write_parquet(tmp_path / "train.parquet", mme_rows()))

    assert [problem.group for problem in problems] == [
        "perception-ocr-with-complex-context", "reasoning-autonomous-driving", "perception-remote-sensing",
    ]  # fmt: skip
    assert (
        problems[0].facts["official"].startswith("<image>\nWhat is the number of sign 0? The choices are listed below")
    )
    assert problems[0].facts["official"].endswith("of the correct option.\nThe best answer is: ")
    assert problems[0].facts["type"] == "license plate"
    outputs = ["The best answer is A", "\\boxed{B}", "The image does not feature the number."]
    assert right("mme-realworld-lite", problems, outputs) == [True, True, True]
    # Its own rule takes the first capital from A to E: of "A Dog" A, of the last sentence none.
    assert right("mme-realworld-lite", problems, ["A Dog", "\\boxed{B}", outputs[2]], "mme-realworld") == [
        True, True, False,
    ]  # fmt: skip
    assert benchmarks.get("mme-realworld-lite").score(problems[0], "", rule="mme-realworld").parsed is None


def test_blink_multi_view_shows_two_views_with_blinks_own_prompt(tmp_path: Path) -> None:
    write_parquet(tmp_path / "Multi-view_Reasoning" / "val-00000-of-00001.parquet", multi_view_rows())
    write_parquet(tmp_path / "Jigsaw" / "val-00000-of-00001.parquet", [{"idx": "other"}])
    problems = benchmarks.get("blink-multi-view").load(tmp_path)

    assert [(problem.answer, len(problem.images), problem.group) for problem in problems] == [
        ("A", 2, "multi-view"), ("B", 2, "multi-view"),
    ]  # fmt: skip
    assert problems[0].question.endswith("\nSelect from the following choices.\n(A) left\n(B) right")
    assert right("blink-multi-view", problems, ["(A)", "right"]) == [True, True]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("hr-bench-4k", {**hr_bench_rows(1)[0], "answer": "E"}, "row 1: the answer 'E' is none of the letters A, B, C"),
        ("hr-bench-4k", {**hr_bench_rows(1)[0], "category": "both"}, "row 1: category 'both' is none of single, cross"),
        ("hr-bench-4k", {**hr_bench_rows(1)[0], "image": "?"}, "row 1: image is str, expected the bytes of an image"),
        (
            "mme-realworld-lite",
            {**mme_rows()[0], "multi-choice options": ["7", "17"]},
            "row 1: the option '7' has no l",
        ),
        (
            "mme-realworld-lite",
            {**mme_rows()[0], "category": "Perception/Art"},
            "row 1: category 'Perception/Art' name",
        ),
        ("mme-realworld-lite", {"index": 1}, "row 1: the column .* is missing"),
        ("blink-multi-view", {**multi_view_rows()[0], "answer": "hidden"}, "row 1: the answer is hidden"),
        ("blink-multi-view", {**multi_view_rows()[0], "image_1": None, "image_2": None}, "row 1: it has no image"),
        (
            "vstar",
            {"image": {"bytes": picture(1)}, "text": "?", "category": "all", "label": "A"},
            "row 1: category 'all'",
        ),
        (
            "vstar",
            {"image": {"bytes": picture(1)}, "text": "No options?", "category": "relative_position", "label": "A"},
            "row 1: the answer 'A' is none of the letters  of 0 options",
        ),
    ],
)
def test_a_malformed_row_is_named_by_its_number(tmp_path: Path, name: str, row: dict[str, Any], message: str) -> None:
    file = write_parquet(tmp_path / "rows.parquet", [row])

    with pytest.raises(DataError, match=message):
        benchmarks.get(name).load(file)


def test_a_rotation_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = hr_bench_rows(1)

    with pytest.raises(DataError, match=r"row 2: .*cycle_category 'cycle_0' already"):
        benchmarks.get("hr-bench-4k").load(write_parquet(tmp_path / "rows.parquet", [rows[0], *rows]))
    more = {**rows[0], "cycle_category": "cycle_4"}
    with pytest.raises(DataError, match=r"row 5: .*more than 4 rotations"):
        benchmarks.get("hr-bench-4k").load(write_parquet(tmp_path / "rows.parquet", [*rows, more]))


def sections(folder: Path) -> dict[str, Any]:
    return {
        "vsp_planning": None,
        "vsp_reasoning": None,
        "hr_bench_4k": PublicData(source=str(hr_bench_folder(folder / "hr")), test=1),
        "vstar": PublicData(source=str(vstar_folder(folder / "v")), groups=("relative_position",)),
    }


def test_a_recipe_tests_on_published_benchmarks_beside_its_own_problems(tmp_path: Path) -> None:
    settings = ProblemSettings(**sections(tmp_path))
    problems = [problem for problem, _ in sourced_problems(settings, 42, lambda event: None)]

    assert Counter(problem.benchmark for problem in problems) == {"hr-bench-4k": 4, "vstar": 2}
    assert {problem.split for problem in problems} == {"test"}
    assert {problem.group for problem in problems if problem.benchmark == "vstar"} == {"relative_position"}


def test_what_a_published_benchmark_holds_is_part_of_the_problems_identity(tmp_path: Path) -> None:
    settings = ProblemSettings(**sections(tmp_path))
    before = sources_identity(settings)
    (tmp_path / "v" / "relative_position" / "sa_0.jpg").write_bytes(picture(99, kind="JPEG"))

    assert sources_identity(settings)["vstar"] != before["vstar"]
    assert sources_identity(settings)["hr_bench_4k"] == before["hr_bench_4k"]


def test_groups_that_a_benchmark_does_not_have_are_refused(tmp_path: Path) -> None:
    data = PublicData(source=str(vstar_folder(tmp_path)), groups=("colours",))

    with pytest.raises(SettingsError, match=r"problems.vstar.groups names \['colours'\]; known: direct_attributes"):
        list(sourced_problems(ProblemSettings(vsp_planning=None, vsp_reasoning=None, vstar=data), 42, lambda _: None))


def test_a_hub_id_of_vstar_stands_for_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = vstar_folder(tmp_path)
    asked: list[Any] = []

    def snapshot(source: str, repo_type: str) -> str:
        asked.append((source, repo_type))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert benchmarks.get("vstar").load(Path("craigwu/vstar_bench")) == benchmarks.get("vstar").load(folder)
    assert asked == [("craigwu/vstar_bench", "dataset")]

    def unreachable(source: str, repo_type: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(DataError, match=r"ConnectionError: no network. Without a network, give a local folder"):
        benchmarks.get("vstar").load(Path("craigwu/vstar_bench"))


@pytest.mark.parametrize(
    ("name", "source", "config", "splits", "rows"),
    [
        ("hr-bench-8k", "DreamMr/HR-Bench", "hrbench_version_split", ["hrbench_8k"], hr_bench_rows(1)),
        ("mme-realworld-lite", "yifanzhang114/MME-RealWorld-lite-lmms-eval", None, ["train"], mme_rows()),
        ("blink-multi-view", "BLINK-Benchmark/BLINK", "Multi-view_Reasoning", ["val"], multi_view_rows()),
        (
            "tablevqa",
            "terryoo/TableVQA-Bench",
            None,
            ["vwtq", "vwtq_syn", "vtabfact", "fintabnetqa"],
            [{**tablevqa_rows("vtabfact")[0], "gt": "1"}],
        ),
    ],
)
def test_hub_ids_are_asked_for_their_published_splits(
    monkeypatch: pytest.MonkeyPatch, name: str, source: str, config: str | None, splits: list[str], rows: list[Any]
) -> None:
    asked: list[Any] = []

    class Table(list[Any]):
        features = None

    def load_dataset(path: str, config: str | None, split: str, streaming: bool) -> Table:
        asked.append((path, config, split))
        return Table(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = benchmarks.get(name).load(Path(str(benchmarks.get(name).source)))

    assert asked == [(source, config, split) for split in splits]
    assert len(loaded) == len(rows) * len(splits)
