"""Small files of the published layouts of SAT, BLINK, CoMT and VSP, made by the tests that read them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mirage_core.worlds.jigsaw import draw_image
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render

MAPS = (
    [[1, 0, 0], [0, -1, 0], [0, 0, 2]],
    [[0, 2, 0], [0, -1, 0], [1, 0, 0]],
)
MARKS = {1: "@", 2: "*", -1: "#", 0: "_"}


def picture(seed: int, side: int = 48, kind: str = "PNG") -> bytes:
    """An encoded picture of shapes."""
    buffer = io.BytesIO()
    draw_image(np.random.default_rng(seed), side).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a parquet file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
    return file


def sat_rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows as array/SAT has them: one picture or two, a type, two answers."""
    kinds = ("obj_movement", "ego_movement", "perspective", "other")
    return [
        {
            "image_bytes": [picture(first + 2 * n), picture(first + 2 * n + 1, kind="JPEG")][: 1 + n % 2],
            "question": f"Question {first + n}: which way did the camera turn?",
            "answers": ["left", "right"],
            "question_type": kinds[n % len(kinds)],
            "correct_answer": ("left", "right")[n % 2],
        }
        for n in range(count)
    ]


def sat_folder(folder: Path, train: int = 20, test: int = 4) -> Path:
    """A folder like array/SAT: SAT_train.parquet and SAT_test.parquet."""
    write_parquet(folder / "SAT_train.parquet", sat_rows(train))
    write_parquet(folder / "SAT_test.parquet", sat_rows(test, first=1000))
    return folder


def blink_folder(folder: Path, count: int = 3) -> Path:
    """A folder like BLINK-Benchmark/BLINK: a folder a configuration, pictures as {bytes, path}, image_4 null."""
    rows = [
        {
            "idx": f"val_Jigsaw_{n + 1}",
            "sub_task": "Jigsaw",
            "question": "Which is the missing part?",
            "prompt": "Which is the missing part? (A) the second image (B) the third image",
            "choices": ["the second image", "the third image"],
            "answer": ("(A)", "(B)")[n % 2],
            **{f"image_{at}": {"bytes": picture(10 * n + at), "path": f"{at}.png"} for at in (1, 2, 3)},
            "image_4": None,
        }
        for n in range(count)
    ]
    write_parquet(folder / "Jigsaw" / "val-00000-of-00001.parquet", rows)
    write_parquet(folder / "Jigsaw" / "test-00000-of-00001.parquet", [{**rows[0], "answer": "hidden"}])
    write_parquet(folder / "Counting" / "val-00000-of-00001.parquet", [{"idx": "other"}])
    return folder


def comt_folder(folder: Path, count: int = 12, **changed: Any) -> Path:
    """A folder like czh-up/comt: data.jsonl and images/<type>/<id>.png."""
    kinds = ("creation", "deletion", "update", "selection")
    rows = []
    for n in range(count):
        kind = kinds[n % 4]
        for part in (0, 1):
            file = folder / "images" / kind / f"{kind}-{n}-{part}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(3 * n + part))
        row = {
            "id": f"{kind}-{n}",
            "question": f"In the figure [IMAGE0], how long is AB in case {n}?",
            "option": ["A. 1", "B. 2", "C. 3", "D. 4"],
            "image": {"IMAGE0": f"{kind}-{n}-0", "IMAGE1": f"{kind}-{n}-1"},
            "rationale": "Join A and C, as in [IMAGE1]. Now ABC is isosceles, so AB = 3.",
            "answer": "C",
            "type": kind,
            "annotations": "",
        }
        rows.append({**row, **changed})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def vsp_folder(folder: Path, tables: bool = True, task: str = "task-main", levels: Sequence[str] = ("level3",)) -> Path:
    """A folder like a checkout of UCSB-NLP-Chang/Visual-Spatial-Planning at 1608e3c (VSP-main/maze), with two maps.

    As there: task 1 asks for holes and answers Y or N; task 2 has maps alone; task 3 has four texts, and five lines of
    which the last is the index of the right one; task 4 has a plan, in folders by its length.
    """
    questions = {
        "task1": [("Is there a hole in row 2, column 2?", "Y"), ("Is there a hole in row 1, column 1?", "N")],
        "task3": [("\n(A)\n| @ |\n(B)\n| * |\n(C)\n| # |\n(D)\n| _ |", "5-32\n3-64\n4-15\n3-0\n3")] * 2,
        "task4": [("RD", "N"), ("UU", "Y")],
    }
    for name in VSP_STEPS if task == "task4" else levels:
        maps = folder / "VSP-main" / "maze" / task / "maps" / name
        for number, rows in enumerate(MAPS):
            _write(maps / "img" / f"{number}.png", picture_bytes(render(maze_from_rows(rows), 64)))
            if task in questions:
                for kind, text in zip(("question", "answer"), questions[task][number], strict=True):
                    _write(maps / kind / f"{number}.txt", text.encode())
            if tables:
                head = "| | Col 1 | Col 2 | Col 3 |\n"
                lines = [
                    f"| Row {at} | {' | '.join(MARKS[cell] for cell in row)} |" for at, row in enumerate(rows, start=1)
                ]
                _write(maps / "table" / f"{number}.txt", (head + "\n".join(lines) + "\n").encode())
    return folder


VSP_STEPS = tuple(f"level_step{steps}" for steps in (1, 3, 5, 7, 9))


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def photographs(folder: Path, count: int, side: int = 80) -> Path:
    """A folder of pictures to cut, one below another folder, with a file that is none."""
    for number in range(count):
        file = folder / ("more" if number % 3 == 0 else ".") / f"{number:03d}.{'jpg' if number % 2 else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, side, "JPEG" if number % 2 else "PNG"))
    (folder / "readme.txt").write_text("pictures of shapes")
    return folder


def opened(data: bytes) -> Image.Image:
    """A decoded picture."""
    return Image.open(io.BytesIO(data)).convert("RGB")
