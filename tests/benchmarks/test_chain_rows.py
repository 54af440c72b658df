"""Rows of Visual-CoT and Monet-SFT-125K in their published layouts, and what ``mirage data probe`` says of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.benchmarks.io.chain_rows import LATENT_MARK, monet_rows, visual_cot_rows
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import blink_folder, picture, sat_folder
from tests.benchmarks.public_data import vstar_folder

PICTURE = picture(1)


def visual_cot(folder: Path, **changed: Any) -> Path:
    """A LLaVA list with boxes, as VincentLeebang/lvr trains on (github.com/VincentLeebang/lvr, its README)."""
    row = {
        "image": "cot/images/1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is on the table?"},
            {"from": "gpt", "value": "<lvr>\n<answer> a cup </answer>"},
        ],
        "bboxes": [[0.1, 0.2, 0.5, 0.6]],
    }
    return _written(folder, [{**row, **changed}], "cot/images/1.png")


def monet(folder: Path, **changed: Any) -> Path:
    """A list of records as in NOVAglow646/Monet-SFT-125K: chat turns of text and image parts."""
    text = {"type": "text", "text": f"I look closer. {LATENT_MARK}"}
    after = {"type": "text", "text": "<observation>The sign says 12.</observation> So it is \\boxed{12}."}
    row = {
        "metadata": {"dataset_name": "Visual_CoT", "sample_id": 7},
        "data": [
            {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
            {
                "role": "user",
                "content": [{"type": "image", "image": "images/q.png"}, {"type": "text", "text": "What?"}],
            },
            {"role": "assistant", "content": [text, {"type": "image", "image": "images/q.png"}, after]},
        ],
    }
    return _written(folder, [{**row, **changed}], "images/q.png")


def _written(folder: Path, rows: list[dict[str, Any]], image: str) -> Path:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(PICTURE)
    file = folder / "train.json"
    file.write_text(json.dumps(rows))
    return file


def test_rows_of_visual_cot_have_a_question_an_answer_and_boxes(tmp_path: Path) -> None:
    (row,) = visual_cot_rows(visual_cot(tmp_path))
    assert (row.question, row.image) == ("What is on the table?", PICTURE)
    assert row.answer == "<lvr>\n<answer> a cup </answer>"
    assert row.boxes == ((0.1, 0.2, 0.5, 0.6),)


def test_rows_of_monet_have_images_among_the_texts_of_their_answer(tmp_path: Path) -> None:
    (row,) = monet_rows(monet(tmp_path))
    assert (row.dataset, row.question, row.images) == ("Visual_CoT", "What?", (PICTURE,))
    assert [type(part) for part in row.answer] == [str, bytes, str]
    assert row.answer[1] == PICTURE


def test_json_lines_are_read_as_a_list_is(tmp_path: Path) -> None:
    file = visual_cot(tmp_path)
    lines = tmp_path / "train.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in json.loads(file.read_text())))
    assert list(visual_cot_rows(lines)) == list(visual_cot_rows(file))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bboxes": [[10, 20, 300, 400]]}, "is not within 0..1; divide pixels"),
        ({"bboxes": [[0.5, 0.2, 0.1, 0.6]]}, "is not within 0..1"),
        ({"bboxes": [[0.5, 0.2]]}, r"expected \[x0, y0, x1, y1\]"),
        ({"bboxes": None}, "bboxes is 'None', expected a list"),
        ({"conversations": [{"from": "gpt", "value": "yes"}]}, "expected a turn of human and one of gpt"),
        ({"image": "cot/images/2.png"}, r"2\.png' is missing"),
        ({"image": []}, "expected the name of one file"),
    ],
)
def test_what_is_wrong_with_a_row_of_visual_cot_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(visual_cot_rows(visual_cot(tmp_path, **changed)))
    assert "train.json, line 1" in str(caught.value)


def assistant(*parts: dict[str, str]) -> dict[str, Any]:
    return {"data": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (assistant({"type": "text", "text": LATENT_MARK}), "1 times .* for 0 auxiliary images"),
        (
            assistant({"type": "image", "image": "images/q.png"}, {"type": "text", "text": LATENT_MARK}),
            "does not follow a text",
        ),
        (assistant({"type": "text", "text": "<observation>It is."}), "1 times <observation> and 0 times"),
        (assistant({"type": "video", "video": "a.mp4"}), "expected a text or the path of an image"),
        ({"data": []}, "expected user and assistant"),
    ],
)
def test_what_is_wrong_with_a_row_of_monet_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(monet_rows(monet(tmp_path, **changed)))


def probe(*words: str) -> Any:
    return CliRunner().invoke(app, ["data", "probe", *words])


@pytest.mark.parametrize(
    ("benchmark", "folder", "rows", "column"),
    [
        ("vstar", vstar_folder, 4, None),
        ("sat", sat_folder, None, "image_bytes"),
        ("jigsaw", blink_folder, 3, "choices"),
    ],
)
def test_a_probe_says_what_a_data_set_holds(
    tmp_path: Path, benchmark: str, folder: Any, rows: int | None, column: str | None
) -> None:
    done = probe("--benchmark", benchmark, "--data", str(folder(tmp_path)), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["rows"] == (rows or found["rows"]) == sum(found["groups"].values())
    assert found["first"]["images"] and found["first"]["answer"]
    assert column is None or any(column in file.get("columns", {}) for file in found["files"])


def test_a_probe_shows_what_it_found_before_the_row_that_does_not_fit(tmp_path: Path) -> None:
    done = probe("--benchmark", "monet-sft", "--data", str(monet(tmp_path, data=[])))
    assert isinstance(done.exception, DataError)
    assert "train.json" in done.output and "bytes" in done.output


def test_a_probe_of_chains_shows_their_first_row(tmp_path: Path) -> None:
    done = probe("--benchmark", "visual-cot", "--data", str(visual_cot(tmp_path)))
    assert done.exit_code == 0, done.output
    assert "visual-cot: 1 rows" in done.output and "first row, question: What is on the table?" in done.output
