"""Rows of Visual-CoT and Monet-SFT-125K in their published layouts, and what ``mirage data probe`` says of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.benchmarks.io import hub_rows
from mirage_core.benchmarks.io.chain_rows import LATENT_MARK, monet_rows, visual_cot_rows
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import (
    blink_folder,
    picture,
    sat_folder,
    sat_rows,
    vsp_folder,
    write_parquet,
)
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


def visual_cot_hub(folder: Path, **changed: Any) -> Path:
    """viscot_363k.json of deepcs233/Visual-CoT, as its tools/convert_data_to_llava_format.py writes it."""
    name = "cot/gqa/2354786.png"
    request = " Please provide the bounding box coordinate of the region that can help you answer the question better."
    row = {
        "dataset": "gqa",
        "split": "train",
        "question_id": 0,
        "image": [name, f"{name}###[12, 0, 24, 49]"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is on the table?{request}"},
            {"from": "gpt", "value": "[0.250, 0.000, 0.500, 1.021]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "A cup."},
        ],
    }
    return _written(folder, [{**row, **changed}], name, "viscot_363k.json")


def visual_cot_metadata(folder: Path) -> Path:
    """metadata/*_cot_train.jsonl of deepcs233/Visual-CoT (github.com/deepcs233/Visual-CoT/viscot_dataset)."""
    row = {"question": "What is left of the dog?", "answer": "sheep", "image": "000000178761.png", "width": 48,
           "height": 48, "bboxs": [[6.0, 0.0, 36.0, 24.0]], "dataset": "textcap", "split": "train"}  # fmt: skip
    _written(folder, [], "cot/textvqa/000000178761.png").unlink()
    (folder / "metadata").mkdir()
    (folder / "metadata" / "textcap_cot_train.jsonl").write_text(json.dumps(row) + "\n")
    return folder


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


def _written(folder: Path, rows: list[dict[str, Any]], image: str, name: str = "train.json") -> Path:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(PICTURE)
    file = folder / name
    file.write_text(json.dumps(rows))
    return file


def test_rows_of_visual_cot_have_a_question_an_answer_and_boxes(tmp_path: Path) -> None:
    (row,) = visual_cot_rows(visual_cot(tmp_path))
    assert (row.question, row.image) == ("What is on the table?", PICTURE)
    assert row.answer == "<lvr>\n<answer> a cup </answer>"
    assert row.boxes == ((0.1, 0.2, 0.5, 0.6),)


def test_visual_cots_own_list_is_read_with_its_box_in_pixels_cut_off_at_the_border(tmp_path: Path) -> None:
    file = visual_cot_hub(tmp_path)
    (row,) = visual_cot_rows(file)
    assert (row.question, row.answer, row.image) == ("What is on the table?", "A cup.", PICTURE)
    assert row.boxes == ((0.25, 0.0, 0.5, 1.0),)
    assert list(visual_cot_rows(tmp_path)) == [row]


def test_visual_cots_metadata_name_pictures_by_their_data_set(tmp_path: Path) -> None:
    (row,) = visual_cot_rows(visual_cot_metadata(tmp_path))
    assert (row.question, row.answer, row.image) == ("What is left of the dog?", "sheep", PICTURE)
    assert row.boxes == ((0.125, 0.0, 0.75, 0.5),)


def test_a_box_outside_its_picture_is_refused(tmp_path: Path) -> None:
    name = "cot/gqa/2354786.png"
    with pytest.raises(DataError, match=r"is not within the image of 48x48 pixels"):
        list(visual_cot_rows(visual_cot_hub(tmp_path, image=[name, f"{name}###[12, 0, 24, 90]"])))


def test_all_subsets_of_monet_are_read_from_its_folder_with_paths_from_there(tmp_path: Path) -> None:
    """Visual_CoT/train.json names Visual_CoT/images/...; Monet's own copies say image_file_name (src/task.py)."""
    row = json.loads(monet(tmp_path / "made").read_text())[0]
    for subset in ("Visual_CoT", "ReFocus"):
        name = f"{subset}/images/q.png"
        for turn in row["data"][1:]:
            for part in turn["content"]:
                if part["type"] == "image":
                    part.pop("image", None)
                    part["image_file_name"] = f"created_dataset/filtered_data/{name}"
        row["metadata"]["dataset_name"] = subset
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_bytes(PICTURE)
        (tmp_path / "set" / subset / "train.json").write_text(json.dumps([row]))
    rows = list(monet_rows(tmp_path / "set"))
    assert [row.dataset for row in rows] == ["ReFocus", "Visual_CoT"]
    assert all(row.images == (PICTURE,) and row.answer[1] == PICTURE for row in rows)


def test_an_observation_before_the_first_image_of_monet_loses_its_tags(tmp_path: Path) -> None:
    row = json.loads(monet(tmp_path).read_text())[0]
    row["data"][2]["content"][0]["text"] = f"<observation>I look</observation> closer. {LATENT_MARK}"
    (tmp_path / "train.json").write_text("\n " + json.dumps([row]))
    (read,) = monet_rows(tmp_path)
    assert read.answer[0] == f"I look closer. {LATENT_MARK}" and "<observation>" in str(read.answer[2])


def test_a_list_of_many_objects_is_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_rows, "_CHUNK", 7)  # objects lie across the chunks
    objects = [{"n": number, "text": "a, ]" * number} for number in range(9)]
    file = tmp_path / "list.json"
    file.write_text(json.dumps(objects, indent=1))
    assert list(hub_rows.json_list(file)) == objects
    file.write_text(json.dumps(objects)[:-9])
    with pytest.raises(DataError, match=r"list\.json, object 9: not valid JSON"):
        list(hub_rows.json_list(file))


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


def test_a_probe_names_every_row_that_does_not_fit_and_counts_the_others(tmp_path: Path) -> None:
    rows = [{**row, **({"correct_answer": "up"} if number % 2 else {})} for number, row in enumerate(sat_rows(5))]
    done = probe("--benchmark", "sat", "--data", str(write_parquet(tmp_path / "SAT_test.parquet", rows)), "--json")
    found = json.loads(done.stdout)
    assert (found["rows"], found["published"], found["splits"]) == (6, 300, {"test": 6})
    assert [fault.partition("row ")[2][:1] for fault in found["faults"]] == ["2", "4"]
    assert "2 rows or files of" in str(done.exception) and "correct_answer 'up' is none" in str(done.exception)


def test_a_probe_of_a_repository_counts_its_files_and_levels(tmp_path: Path) -> None:
    for task in ("task1", "task2", "task3", "task4"):
        vsp_folder(tmp_path, task=task)
    done = probe("--benchmark", "vsp-questions", "--data", str(tmp_path))
    assert ".png" in done.output and "holds no PNG: expected the maps of level 4" in str(done.exception)


def test_a_probe_of_chains_shows_their_first_row(tmp_path: Path) -> None:
    done = probe("--benchmark", "visual-cot", "--data", str(visual_cot(tmp_path)))
    assert done.exit_code == 0, done.output
    assert "visual-cot: 1 rows" in done.output and "first row, question: What is on the table?" in done.output
