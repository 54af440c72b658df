"""Your own questions from one JSONL file: what is read, and how every fault is told with its line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.io.content_digest import sources_identity
from mirage_core.config import OwnData, ProblemSettings
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import picture

LINE: dict[str, Any] = {
    "question": "Which exit does the ball reach?",
    "images": ["ball.png"],
    "options": ["left", "right"],
    "answer": "right",
    "auxiliary_image": "path.jpg",
}


def written(folder: Path, *lines: Mapping[str, Any]) -> OwnData:
    """A file of these lines, with two pictures beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "ball.png").write_bytes(picture(1))
    (folder / "path.jpg").write_bytes(picture(2, kind="JPEG"))
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return OwnData(file=str(folder / "mine.jsonl"))


def faults_of(data: OwnData) -> list[str]:
    return [fault for _, _, faults in jsonl_data.checked_rows(data) for fault in faults]


def test_a_line_becomes_a_problem_with_its_picture_and_chain(tmp_path: Path) -> None:
    chain = {"text_before": "<think>The path.</think>", "text_after": "\\boxed{B}"}
    row = next(jsonl_data.rows_of(written(tmp_path, {**LINE, **chain, "id": "one", "group": "easy", "split": "train"})))

    assert (row.problem.id, row.problem.group, row.problem.split, row.problem.answer) == ("one", "easy", "train", "B")
    assert row.problem.question.startswith("<image>\nWhich exit") and "(B) right" in row.problem.question
    assert row.problem.images == (picture(1),)
    assert row.provided is not None and row.provided.image == picture(2, kind="JPEG")
    assert (row.provided.text_before, row.provided.text_after) == ("<think>The path.</think>", "\\boxed{B}")
    assert benchmarks.get("own").score(row.problem, "\\boxed{B}").correct


def test_answers_without_options_are_compared_as_text(tmp_path: Path) -> None:
    line = {key: value for key, value in LINE.items() if key != "options"}
    problem = next(jsonl_data.rows_of(written(tmp_path, {**line, "answer": "To the  Right."}))).problem

    assert jsonl_data.score(problem, "\\boxed{to the right}").correct
    assert not jsonl_data.score(problem, "\\boxed{to the left}").correct
    assert jsonl_data.score(problem, "It goes to the right.").correct
    assert jsonl_data.score(problem, "I cannot tell.").parsed is None


def test_lines_without_a_split_fall_into_splits_by_what_they_say(tmp_path: Path) -> None:
    data = written(tmp_path, *({**LINE, "question": f"Question {n}?"} for n in range(200)))
    splits = [row.problem.split for row in jsonl_data.rows_of(data)]

    assert 20 <= splits.count("test") <= 60 and 2 <= splits.count("validation") <= 25
    assert splits == [row.problem.split for row in jsonl_data.rows_of(data)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, r"line 2: question is '', expected text"),
        ({"images": []}, r"line 2: images is missing"),
        ({"images": ["gone.png"]}, r"line 2: the image 'gone\.png' is missing"),
        ({"images": ["../../etc/passwd"]}, r"line 2: 'images' leaves the file's folder"),
        ({"answer": "up"}, r"line 2: the answer 'up' is none of the options"),
        ({"colour": "red"}, r"line 2: unknown key 'colour'; known: id, question"),
        ({"split": "dev"}, r"line 2: split is 'dev', expected one of train, validation, test"),
        ({"text_before": "a"}, r"line 2: text_before and text_after go together"),
        ({"question": "<image> and <image>?"}, r"line 2: the question has 2 times <image> for 1 images"),
        ({"split": "train", "auxiliary_image": None}, r"line 2: it is for training \(train\), so it needs"),
        ({"id": "first"}, r"line 2: the id 'first' is on line 1 already"),
    ],
)
def test_every_fault_names_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = written(tmp_path, {**LINE, "id": "first"}, {**LINE, **change})

    with pytest.raises(DataError, match=message):
        list(jsonl_data.rows_of(data))


def test_a_check_shows_all_faults_of_all_lines(tmp_path: Path) -> None:
    data = written(tmp_path, {**LINE, "images": ["a.png", "b.png"], "colour": 1}, LINE, {"answer": 3})
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write("{broken\n")
    faults = faults_of(data)

    assert len([fault for fault in faults if "jsonl, line 1:" in fault]) == 3
    assert not [fault for fault in faults if "line 2:" in fault]
    assert len([fault for fault in faults if "line 3" in fault]) >= 3
    assert len([fault for fault in faults if "line 4: not valid JSON" in fault]) == 1


def test_links_and_bombs_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture(3))
    data = written(tmp_path / "data", {**LINE, "images": ["link.png"]}, {**LINE, "images": ["bomb.png"]})
    (tmp_path / "data" / "link.png").symlink_to(outside)
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(tmp_path / "data" / "bomb.png")

    faults = faults_of(data)
    assert "leaves the file's folder" in faults[0]
    assert "bomb.png" in faults[1] and ("at most" in faults[1] or "cannot be decoded" in faults[1])


def test_the_identity_knows_the_pictures_and_not_the_place(tmp_path: Path) -> None:
    def identity_of(data: OwnData) -> Any:
        return sources_identity(ProblemSettings(own=data))

    first, second = written(tmp_path / "a", LINE), written(tmp_path / "b", LINE)
    assert identity_of(first) == identity_of(second)
    (tmp_path / "b" / "path.jpg").write_bytes(picture(9, kind="JPEG"))
    assert identity_of(first) != identity_of(second)


def test_several_images_are_a_film_whose_last_is_imagined_unless_one_is_named(tmp_path: Path) -> None:
    frames = {"auxiliary_images": ["ball.png", "path.jpg"]}
    last = {key: value for key, value in LINE.items() if key != "auxiliary_image"} | {"split": "train"}
    data = written(tmp_path, {**last, **frames}, {**LINE, **frames, "auxiliary_image": "ball.png"}, LINE)
    film, named, plain = (row.provided for row in jsonl_data.rows_of(data))
    assert film is not None and named is not None and plain is not None
    shown = (picture(1), picture(2, kind="JPEG"))
    assert film.frames == named.frames == shown and film.image == shown[1] and named.image == shown[0]
    assert plain.frames == ()
    (fault,) = faults_of(written(tmp_path, {**LINE, "auxiliary_images": ["ball.png", "gone.png"]}))
    assert "gone.png" in fault


def test_the_frames_of_a_film_count_among_the_content(tmp_path: Path) -> None:
    def identity(frame: bytes) -> Any:
        data = written(tmp_path, {**LINE, "auxiliary_images": ["frame.png", "path.jpg"]})
        (tmp_path / "frame.png").write_bytes(frame)
        return sources_identity(ProblemSettings(own=data))["own"]

    assert identity(picture(5)) == identity(picture(5)) != identity(picture(6))
