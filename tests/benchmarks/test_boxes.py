"""Questions with boxes: lines of one's own, and the published layouts of Visual-CoT and LVR, as training examples."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks.custom.jsonl_data import OwnRow, checked_rows, rows_of
from mirage_core.config import OwnData


def picture(folder: Path) -> None:
    image = Image.new("RGB", (80, 40), "white")
    image.paste("red", (40, 20, 80, 40))
    image.save(folder / "a.png")


def read(file: Path, layout: str = "lines") -> list[OwnRow]:
    return list(rows_of(OwnData.model_validate({"file": str(file), "layout": layout, "test_share": 0.0})))


def written(folder: Path, **line: object) -> Path:
    picture(folder)
    file = folder / "mine.jsonl"
    file.write_text(json.dumps({"question": "What is red?", "images": ["a.png"], "answer": "it", **line}) + "\n")
    return file


def test_a_line_with_boxes_needs_no_auxiliary_image_and_imagines_the_first_cut_out(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path, boxes=[[0.5, 0.5, 1, 1], [0, 0, 0.25, 1.0]]))
    assert benchmarks.get("own").regions(row.problem) == (((0.5, 0.5, 1.0, 1.0),), ((0.0, 0.0, 0.25, 1.0),))
    assert row.provided is not None and row.provided.style == "crop"
    crop = Image.open(io.BytesIO(row.provided.image))
    assert crop.size == (40, 20) and crop.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [("all", "expected a list of boxes"), ([1], "expected a list of boxes"), ([[0, 0, 2, 1]], "expected left, top")],
)
def test_a_wrong_box_is_a_fault_of_its_line(tmp_path: Path, boxes: object, message: str) -> None:
    ((line, parsed, faults),) = checked_rows(OwnData(file=str(written(tmp_path, boxes=boxes))))
    assert (line, parsed) == (1, None)
    assert any("line 1" in fault and message in fault for fault in faults)


def test_rows_of_lvr_are_problems_with_boxes_and_the_answer_without_its_tags(tmp_path: Path) -> None:
    picture(tmp_path)
    row = {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich colour is below?"},
            {"from": "gpt", "value": "<lvr>\n<answer> red </answer>"},
        ],
        "bboxes": [[0.5, 0.5, 1.0, 1.0]],
    }
    (tmp_path / "lvr.json").write_text(json.dumps([row]))
    (found,) = read(tmp_path / "lvr.json", "visual_cot")
    assert found.problem.question == "<image>\nWhich colour is below?"
    assert found.problem.answer == "red"
    assert benchmarks.get("own").regions(found.problem) == (((0.5, 0.5, 1.0, 1.0),),)
    assert found.provided is not None
    assert (found.provided.text_before, found.provided.text_after) == ("", "\\boxed{red}")
    assert Image.open(io.BytesIO(found.provided.image)).size == (40, 20)
    assert read(tmp_path / "lvr.json", "visual_cot")[0].problem.id == found.problem.id
