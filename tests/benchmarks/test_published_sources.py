"""SAT, CoMT and the original VSP folder: read from small files of their published layouts, with every fault named."""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks import comt, sat
from mirage_core.benchmarks.io.content_digest import content_of
from mirage_core.benchmarks.io.hub_rows import published_rows
from mirage_core.benchmarks.load_problems import SourcedProblem, sourced_problems
from mirage_core.benchmarks.vsp_folder import folder_problems
from mirage_core.config import CoMTData, ProblemSettings, SATData, VSPFolderData
from mirage_core.errors import DataError
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render
from tests.benchmarks.data_sets import MAPS, comt_folder, picture, sat_folder, sat_rows, vsp_folder, write_parquet

NOTHING_DRAWN: dict[str, Any] = {"vsp_planning": None, "vsp_reasoning": None}


def quiet(event: object) -> None:
    """Nobody listens."""


def sourced(**sections: Any) -> list[SourcedProblem]:
    return list(sourced_problems(ProblemSettings(**NOTHING_DRAWN, **sections), 42, quiet))


def test_every_sat_test_row_is_asked_in_both_orders(tmp_path: Path) -> None:
    problems = sat.load(sat_folder(tmp_path), "test")

    assert len(problems) == 8
    for first, second in zip(problems[::2], problems[1::2], strict=True):
        assert first.facts["options"] == second.facts["options"][::-1]
        assert {first.answer, second.answer} == {"A", "B"}
        assert first.facts["options"]["AB".index(first.answer)] == second.facts["options"]["AB".index(second.answer)]
    assert [problem.group for problem in problems[::2]] == ["obj_movement", "ego_movement", "perspective", "static"]
    assert [len(problem.images) for problem in problems[::2]] == [1, 2, 1, 2]
    assert all(problem.question.count("<image>") == len(problem.images) for problem in problems)


def test_sat_training_rows_stand_in_one_order_and_fill_their_splits(tmp_path: Path) -> None:
    data = SATData(source=str(sat_folder(tmp_path, train=60)), train=20, validation=4, test=3)
    problems = [problem for problem, _ in sourced(sat=data)]

    assert Counter(problem.split for problem in problems) == {"train": 20, "validation": 4, "test": 6}
    trained = [problem for problem in problems if problem.split != "test"]
    assert len({problem.facts["scene"] for problem in trained}) == len(trained)
    assert {problem.facts["order"] for problem in trained} == {0, 1}


def test_sat_types_can_be_chosen(tmp_path: Path) -> None:
    data = SATData(source=str(sat_folder(tmp_path, train=40)), types=("perspective",), train=5, validation=0)

    assert {problem.group for problem, _ in sourced(sat=data)} == {"perspective"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct_answer": "up"}, r"row 1: correct_answer 'up' is none of the answers"),
        ({"answers": ["left", "left"], "correct_answer": "left"}, r"row 1: the options .* are not all different"),
        ({"image_bytes": [b"not a picture"]}, r"row 1: image 1 cannot be decoded"),
        ({"question": 3}, r"row 1: 'question' is int, expected text"),
    ],
)
def test_faults_of_a_sat_row_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = write_parquet(tmp_path / "SAT_test.parquet", [{**sat_rows(1)[0], **change}])

    with pytest.raises(DataError, match=message):
        sat.load(file)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    row = {key: value for key, value in sat_rows(1)[0].items() if key != "answers"}

    with pytest.raises(DataError, match=r"the column 'answers' is missing \(it has \['correct_answer'"):
        sat.load(write_parquet(tmp_path / "SAT_test.parquet", [row]))


def test_comt_gives_its_own_picture_and_words(tmp_path: Path) -> None:
    problems = sourced(comt=CoMTData(source=str(comt_folder(tmp_path, 80)), train=8, validation=0))
    splits = Counter(problem.split for problem, _ in problems)

    assert splits["train"] == 8 and splits["test"] > 0
    assert {problem.group for problem, _ in problems} == {"creation"}
    problem, provided = next((problem, provided) for problem, provided in problems if problem.split == "train")
    assert provided is not None and provided.problem_id == problem.id
    number = int(problem.id.rpartition("-")[2])
    assert problem.images == (picture(3 * number),) and provided.image == picture(3 * number + 1)
    assert provided.text_before == "<think>Join A and C, as in</think>"
    assert provided.text_after == "<think>Now ABC is isosceles, so AB = 3.</think>\\boxed{C}"
    assert provided.frames == (provided.image,)
    assert problem.question.startswith("In the figure <image>, how long") and "(C) 3" in problem.question
    assert benchmarks.get("comt").score(problem, "AB is 3. \\boxed{C}").correct


def test_the_split_of_a_comt_row_does_not_move_with_counts_or_seed(tmp_path: Path) -> None:
    folder = str(comt_folder(tmp_path, 80))
    few = {problem.id: problem.split for problem, _ in sourced(comt=CoMTData(source=folder, train=3, validation=0))}
    many = {problem.id: problem.split for problem, _ in sourced(comt=CoMTData(source=folder, train=12, validation=0))}

    assert all(many.get(name, split) == split for name, split in few.items())


def test_comt_also_names_pictures_in_a_list(tmp_path: Path) -> None:
    folder = comt_folder(tmp_path, 4)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = [f"[{key}:{name}]" for key, name in row["image"].items()]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert [row.provided is not None for row in comt.read(folder)] == [True] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "erasure"}, r"line 1: type 'erasure' is none of creation"),
        ({"answer": "E"}, r"line 1: the answer 'E' is none of the options"),
        ({"image": {"IMAGE0": "creation-0-0"}}, r"line 1: IMAGE1 is mentioned, but the row names \[0\] only"),
        ({"image": "creation-0-0"}, r"line 1: image is 'creation-0-0', expected"),
        ({"image": {"IMAGE0": "gone", "IMAGE1": "gone"}}, r"line 1: the image 'gone' is missing"),
        ({"option": "A. 1"}, r"line 1: option is 'A. 1', expected a list"),
    ],
)
def test_faults_of_a_comt_row_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        comt.load(comt_folder(tmp_path, 1, **change))


def test_comt_pictures_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    folder = comt_folder(tmp_path / "comt", 1, image={"IMAGE0": "../../../secret", "IMAGE1": "../../../secret"})

    with pytest.raises(DataError, match=r"leaves the file's folder"):
        comt.load(folder)


def test_too_few_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"comt: .* holds too few rows: train \d+ of 1000"):
        sourced(comt=CoMTData(source=str(comt_folder(tmp_path, 12))))


@pytest.mark.parametrize("tables", [True, False])
def test_the_original_vsp_folder_gives_planning_problems(tmp_path: Path, tables: bool) -> None:
    vsp_folder(tmp_path, tables)
    problems = list(folder_problems(VSPFolderData(source=str(tmp_path), levels=(3,))))

    assert [problem.facts["map"] for problem in problems] == [
        [[1, 0, 0], [0, -1, 0], [0, 0, 2]],
        [[0, 2, 0], [0, -1, 0], [1, 0, 0]],
    ]
    planning = benchmarks.get("vsp-planning")
    assert planning.score(problems[0], "\\boxed{RRDD}", "mirage").correct
    assert all(problem.split == "test" and problem.group == "level-3" for problem in problems)


@pytest.mark.parametrize(
    ("task", "groups", "answers", "first_output"),
    [
        ("task1", {"task1-level-3"}, {"yes", "no"}, "\\boxed{Yes}"),
        ("task2", {"task2-level-3"}, {"Above,Left", "Below,Left"}, "\\boxed{above, left}"),
        ("task3", {"task3-level-3"}, {"D"}, "<Answer> D"),
        ("task4", {f"task4-steps-{steps}" for steps in (1, 3, 5, 7, 9)}, {"yes", "no"}, "It steps into it.\nNo"),
    ],
)
def test_the_questions_of_the_original_vsp_repository_are_asked_and_judged(
    tmp_path: Path, task: str, groups: set[str], answers: set[str], first_output: str
) -> None:
    vsp_folder(tmp_path, task=task)
    data = VSPFolderData(source=str(tmp_path), levels=(3,), tasks=(task,))  # type: ignore[arg-type]
    problems = [problem for problem, _ in sourced(vsp_folder=data)]
    questions = benchmarks.get("vsp-questions")

    assert {problem.group for problem in problems} == groups <= set(questions.groups)
    assert {problem.answer for problem in problems} == answers
    assert all(problem.question.startswith("<image>\n") and len(problem.question) > 40 for problem in problems)
    assert questions.score(problems[0], first_output).correct
    assert not questions.score(problems[0], "I cannot tell.").correct


def test_all_levels_of_the_original_vsp_repository_are_loaded_for_an_evaluation(tmp_path: Path) -> None:
    for task in ("task1", "task2", "task3", "task4"):
        vsp_folder(tmp_path, task=task)
    for level3 in [*tmp_path.rglob("maps/level3")]:
        for level in range(4, 9):
            shutil.copytree(level3, level3.with_name(f"level{level}"))
    questions = benchmarks.get("vsp-questions")
    assert {problem.group for problem in questions.load(tmp_path)} == set(questions.groups)


def test_the_answer_of_a_plan_is_that_of_its_file_or_else_of_the_map(tmp_path: Path) -> None:
    vsp_folder(tmp_path, task="task4")
    data = VSPFolderData(source=str(tmp_path), tasks=("task4",))
    expected = [problem.answer for problem in folder_problems(data)]
    for file in tmp_path.rglob("answer/*.txt"):
        file.unlink()
    assert [problem.answer for problem in folder_problems(data)] == expected
    next(tmp_path.rglob("question/1.txt")).write_text("go up")
    with pytest.raises(DataError, match="'go up' is no plan"):
        list(folder_problems(data))


def test_a_question_that_is_missing_is_named(tmp_path: Path) -> None:
    vsp_folder(tmp_path, task="task1")
    next(tmp_path.rglob("question/1.txt")).unlink()
    with pytest.raises(DataError, match=r"1\.png: its question is missing or empty"):
        list(folder_problems(VSPFolderData(source=str(tmp_path), levels=(3,), tasks=("task1",))))


@pytest.mark.parametrize("rows", ["data/vsp_spatial_planning", "elsewhere/vsp_spatial_planning"])
def test_images_named_from_the_root_of_mirages_repository_are_found(tmp_path: Path, rows: str) -> None:
    """As in UMass-Embodied-AGI/Mirage, data/vsp_spatial_planning/test_direct.jsonl, unpacked there or anywhere."""
    name = "./data/vsp_spatial_planning/imgs_test/level3/img/31.png"
    row = {"text_input": planning_question(), "image_input": name, "map_id": "31", "map_desc": MAPS[0]}
    folder = tmp_path / rows
    image = folder / "imgs_test/level3/img/31.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(picture_bytes(render(maze_from_rows(MAPS[0]), 64)))
    (folder / "test_direct.jsonl").write_text(json.dumps(row) + "\n")

    (problem,) = benchmarks.get("vsp-planning").load(folder / "test_direct.jsonl")
    assert problem.facts["map"] == [list(line) for line in MAPS[0]]
    image.unlink()
    with pytest.raises(DataError, match=r"31\.png' is missing; expected it at .* or below a folder above"):
        benchmarks.get("vsp-planning").load(folder / "test_direct.jsonl")


def planning_question() -> str:
    from mirage_core.benchmarks.vsp_prompts import PLANNING, with_ending

    return with_ending(PLANNING, "direct")


def test_a_clone_of_comt_is_read_and_its_answer_is_a_letter(tmp_path: Path) -> None:
    comt_folder(tmp_path / "comt", 2, option=["D", "C", "A", "B"], answer="B")
    problems = benchmarks.get("comt").load(tmp_path)
    assert len(problems) == 2 and {problem.answer for problem in problems} == {"B"}


def test_comt_is_fetched_by_its_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comt_folder(tmp_path / "comt", 1)
    asked: list[str] = []
    monkeypatch.setattr("mirage_core.benchmarks.comt.hub_folder", lambda source: (asked.append(source), tmp_path)[1])
    assert len(benchmarks.get("comt").load("czh-up/comt")) == 1
    assert asked == ["czh-up/comt"]


@pytest.mark.parametrize("column", ["image_bytes", "images"])
def test_sat_is_read_as_the_hub_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """Column types as on the card of array/SAT (a list of images), streamed as from the hub; SAT-v2 calls it images."""
    import datasets

    rows = [{column: row.pop("image_bytes"), **row} for row in sat_rows(3)]
    features = datasets.Features(
        {column: datasets.List(datasets.Image()), "question": datasets.Value("string"),
         "answers": datasets.List(datasets.Value("string")), "question_type": datasets.Value("string"),
         "correct_answer": datasets.Value("string")}
    )  # fmt: skip
    table = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: table.to_iterable_dataset())

    problems = benchmarks.get("sat").load("array/SAT")
    assert len(problems) == 2 * len(rows)
    assert problems[0].images[0] == rows[0][column][0]


def test_a_folder_that_is_no_vsp_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a checkout of the original VSP repository"):
        list(folder_problems(VSPFolderData(source=str(tmp_path))))


def test_pictures_come_in_every_published_form(tmp_path: Path) -> None:
    data = picture(1)
    text = base64.b64encode(data).decode()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"a": text, "b": {"bytes": text}}) + "\n")
    row = next(published_rows(str(tmp_path / "rows.jsonl")))

    assert row.image(row.value("a"), "a") == row.image(row.value("b"), "b") == data
    with pytest.raises(DataError, match=r"c is int, expected the bytes of an image"):
        row.image(3, "c")


def test_a_source_that_is_nothing_says_what_it_may_be() -> None:
    with pytest.raises(DataError, match=r"neither a local file or folder nor a hub id"):
        next(published_rows("nowhere"))


def test_content_not_place_decides(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        comt_folder(folder, 4)

    assert content_of(str(first)) == content_of(str(second)) != content_of(str(tmp_path))
    (second / "images" / "creation" / "creation-0-0.png").write_bytes(picture(99))
    assert content_of(str(first)) != content_of(str(second))
    assert content_of("array/SAT") == "array/SAT" and content_of(None) is None


def test_all_new_images_of_a_rationale_are_frames(tmp_path: Path) -> None:
    images = {f"IMAGE{number}": f"creation-0-{number % 2}" for number in range(3)}
    rationale = "First [IMAGE1], then as in [IMAGE2]. So AB = 3."
    folder = comt_folder(tmp_path, 1, image=images, rationale=rationale)
    provided = comt.read(folder)[0].provided
    assert provided is not None and provided.frames == (picture(1), picture(0)) and provided.image == picture(0)
    assert provided.text_before == "<think>First , then as in</think>"
