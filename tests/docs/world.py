"""The files that documented commands name, and a store with one finished run of the recipe micro."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.benchmarks.vsp_prompts import PLANNING, with_ending
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render
from tests.benchmarks.public_data import hr_bench_folder, tablevqa_folder, vstar_folder
from tests.synthesis.tiny_video import tiny_cogvideox

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
# As the command of the README, in one process and with as few steps as there can be.
SHORTER = (
    "runtime.processes=1", "runtime.engine=plain", "model.warmup.steps=2", "direct_sft.steps=2", "grounding.steps=2",
    "relaxation.steps=2", "grpo.steps=1",
)  # fmt: skip


def build(folder: Path) -> None:
    """Write every file; commands are then run in ``folder``."""
    (folder / "test_direct.jsonl").write_text(json.dumps(_planning_row(folder)) + "\n")
    maze = picture_bytes(render(MAZE))
    for name in ("maze.png", "image.png"):
        (folder / name).write_bytes(maze)
    for name in ("my.jsonl", "mine.jsonl"):
        (folder / name).write_text("".join(json.dumps(_own_row(folder, row)) + "\n" for row in range(8)))
    (folder / "my.yaml").write_text("extends: micro\nteacher: {variant: cot}\n")
    vstar_folder(folder / "data/vstar_bench")
    hr_bench_folder(folder / "data/HR-Bench")
    tables = tablevqa_folder(folder / "data/TableVQA-Bench")
    (folder / "deepeyes.jsonl").write_text(_answers(4, "A"))
    for name, text in (("one", "yes"), ("two", "no")):
        (folder / f"{name}.jsonl").write_text(_answers(_rows(tables), text))
    (folder / "pairs.jsonl").write_text(json.dumps({"description": "a red cube", "image": "frame0.png"}) + "\n")
    (folder / "frame0.png").write_bytes(_png((32, 32)))
    tiny_cogvideox(folder / "cogvideox")


def _planning_row(folder: Path) -> dict[str, object]:
    (folder / "imgs").mkdir()
    (folder / "imgs/a.png").write_bytes(picture_bytes(render(MAZE)))
    text = with_ending(PLANNING, "direct")
    return {"text_input": text, "image_input": "imgs/a.png", "map_id": "1", "map_desc": MAZE.rows()}


def _own_row(folder: Path, row: int) -> dict[str, object]:
    for name in (f"q{row}.png", f"aux{row}.png"):
        (folder / name).write_bytes(_png((112, 112), shade=20 * row))
    return {
        "question": f"<image>\nIs shade {row} dark?", "images": [f"q{row}.png"], "answer": "yes",
        "options": ["yes", "no"], "auxiliary_image": f"aux{row}.png",
    }  # fmt: skip


def _png(size: tuple[int, int], shade: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, 40, 160)).save(stream, "PNG")
    return stream.getvalue()


def _rows(folder: Path) -> int:
    from mirage_core import benchmarks

    return len(benchmarks.get("tablevqa").load(folder))


def _answers(rows: int, text: str) -> str:
    return "".join(json.dumps({"row": row, "output": text}) + "\n" for row in range(rows))


def run(*arguments: str) -> str:
    """What the command line prints; the test fails where it does not end well."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"mirage {' '.join(arguments)}\n{done.output}\n{done.exception!r}"
    return done.output
