"""What a data set may hold: rows of every published layout, a user's own lines, pictures, predictions."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from mirage_core import benchmarks, image_files
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.io.chain_rows import LATENT_MARK
from mirage_core.benchmarks.vsp_prompts import PLANNING, REASONING, with_ending
from mirage_core.config import OwnData
from mirage_core.evaluation.predictions_file import read_outputs
from mirage_core.types import Problem
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render
from tests.benchmarks.data_sets import comt_folder, picture
from tests.benchmarks.public_data import hr_bench_rows, mme_rows, multi_view_rows, tablevqa_rows, vstar_folder
from tests.soak.fuzz.mutate import mutated_bytes, mutated_json
from tests.soak.fuzz.target import Target

SMALL = picture(1, 8)
SMALL_TEXT = base64.b64encode(SMALL).decode()
MAZE = [[1, 0, 0], [0, -1, 0], [0, 0, 2]]
Rows = Sequence[Mapping[str, Any]]


def lines_target(
    name: str,
    rows: Callable[[Path], Rows],
    read: Callable[[Path], object],
    count: int,
    name_of_file: str = "rows.jsonl",
) -> Target:
    """A reader of a JSONL file of two lines, the second mutated."""

    def prepare(folder: Path) -> tuple[Callable[[Random], bytes], Callable[[bytes], object]]:
        known, file = rows(folder), folder / name_of_file
        good = json.dumps(known[0]).encode() + b"\n"

        def draw(chance: Random) -> bytes:
            return (good if chance.random() < 0.3 else b"") + mutated_json(chance.choice(known), chance) + b"\n"

        def read_lines(lines: bytes) -> object:
            file.write_bytes(lines)
            return read(file)

        return draw, read_lines

    return Target(name, prepare, count)


def _own_rows(folder: Path) -> Rows:
    (folder / "a.png").write_bytes(SMALL)
    row = {"question": "Which? <image>", "images": ["a.png"], "options": ["left", "right"], "answer": "right"}
    chain = {"auxiliary_image": "a.png", "text_before": "<think>I see.</think>", "text_after": "\\boxed{B}"}
    boxed = {"question": "What?", "images": ["a.png"], "answer": "a cup", "boxes": [[0.1, 0.1, 0.9, 0.5]]}
    film = {"auxiliary_images": ["a.png", "a.png"], "id": "x", "group": "g", "split": "train"}
    return [row | {"split": "test"}, row | chain, boxed, row | film]


def _vsp_rows(folder: Path) -> Rows:
    (folder / "a.png").write_bytes(picture_bytes(render(maze_from_rows(MAZE), 16)))
    row = {"text_input": with_ending(PLANNING, "direct"), "image_input": "a.png", "map_id": "1", "map_desc": MAZE}
    return [row]


def _reasoning_rows(folder: Path) -> Rows:
    (folder / "a.png").write_bytes(picture_bytes(render(maze_from_rows(MAZE))))
    question = with_ending(REASONING.replace("{plan}", "RIGHT, DOWN"), "cot")
    return [{"text_input": question, "text_output": "so \\boxed{B}.", "image_input": "a.png", "image_output": "a.png"}]


def _comt_rows(folder: Path) -> Rows:
    comt_folder(folder, 4)
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def _vstar_rows(folder: Path) -> Rows:
    vstar_folder(folder)
    return [json.loads(line) for line in (folder / "test_questions.jsonl").read_text().splitlines()]


def _sat_rows(_: Path) -> Rows:
    row = {"question": "Which way?", "answers": ["left", "right"], "question_type": "ego_movement"}
    return [{**row, "image_bytes": [SMALL_TEXT], "correct_answer": "left"}]


def _with_small(rows: Rows) -> Rows:
    """Published rows with pictures small enough to be decoded by the thousand."""
    pictures = {"image", "bytes", "image_1", "image_2"}
    return [{k: SMALL_TEXT if k in pictures and v is not None else v for k, v in row.items()} for row in rows]


def _visual_cot_rows(folder: Path) -> Rows:
    (folder / "a.png").write_bytes(picture(1, 48))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "<answer> a cup </answer>"}]
    lvr = {"image": "a.png", "conversations": turns, "bboxes": [[0.1, 0.2, 0.5, 0.6]]}
    hub = {"image": ["a.png", "a.png###[12, 0, 24, 40]"], "conversations": turns * 2}
    flat = {"question": "What?", "answer": "sheep", "image": "a.png", "bboxs": [[6.0, 0.0, 36.0, 24.0]], "dataset": "x"}
    return [lvr, hub, flat]


def _monet_rows(folder: Path) -> Rows:
    (folder / "a.png").write_bytes(SMALL)
    seen = {"type": "image", "image": "a.png"}
    words = [f"I look. {LATENT_MARK}", "<observation>It says 12.</observation> So \\boxed{12}."]
    first, last = ({"type": "text", "text": text} for text in words)
    user = {"role": "user", "content": [seen, {"type": "text", "text": "What?"}]}
    turns = [user, {"role": "assistant", "content": [first, seen, last]}]
    return [{"metadata": {"dataset_name": "x"}, "data": turns}]


def _check_own(file: Path) -> object:
    return list(jsonl_data.checked_rows(OwnData(file=str(file))))


def _layout(name: str) -> Callable[[Path], object]:
    return lambda file: list(jsonl_data.rows_of(OwnData(file=str(file), layout=name)))  # type: ignore[arg-type]


def _loader(name: str) -> Callable[[Path], object]:
    return benchmarks.get(name).load


def _pictures(folder: Path) -> tuple[Callable[[Random], bytes], Callable[[bytes], object]]:
    seeds = _encoded_pictures()

    def read(data: bytes) -> object:
        image_files.displayed_size(data, "it", 10_000)
        image_files.remarks(data, "it")
        return image_files.read_rgb(data, "it", max_pixels=10_000)

    return lambda chance: mutated_bytes(chance.choice(seeds), chance.choice(seeds), chance), read


def _encoded_pictures() -> list[bytes]:
    """A small picture in every format and in the modes that are treated apart."""
    base = Image.open(io.BytesIO(SMALL)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    modes = {
        "PNG": ("RGB", "RGBA", "P", "L", "I;16", "1"),
        "JPEG": ("RGB", "CMYK", "L"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P",),
        "BMP": ("RGB",),
        "TIFF": ("RGB", "F", "I", "CMYK"),
    }
    for kind, several in modes.items():
        for mode in several:
            buffer = io.BytesIO()
            base.convert(mode).save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
            seeds.append(buffer.getvalue())
    return seeds


def _predictions(folder: Path) -> tuple[Callable[[Random], bytes], Callable[[bytes], object]]:
    parts = {"images": (), "question": "<image>?", "answer": "A", "benchmark": "sat", "group": "static"}
    problems = [Problem(id=f"sat-{n}-{order}", split="test", **parts) for n in range(3) for order in (0, 1)]  # type: ignore[arg-type]
    rows = [{"row": 1, "output": "A"}, {"row": 2, "order": 1, "output": None}, {"id": "sat-0-0", "output": "B"}]
    file = folder / "predictions.jsonl"

    def draw(chance: Random) -> bytes:
        lines = [json.dumps(row).encode() for row in rows]
        lines[chance.randrange(3)] = mutated_json(chance.choice(rows), chance)
        return b"\n".join(lines[: chance.randint(1, 3)])

    def read(lines: bytes) -> object:
        file.write_bytes(lines)
        return read_outputs(file, "sat", problems, partial=True)

    return draw, read


DATA_TARGETS = (
    lines_target("own lines", _own_rows, _check_own, 10_000),
    lines_target("VSP planning rows", _vsp_rows, _loader("vsp-planning"), 4_000),
    lines_target("VSP reasoning rows", _reasoning_rows, _loader("vsp-reasoning"), 500),
    lines_target("CoMT rows", _comt_rows, _loader("comt"), 2_500),
    lines_target("V* rows", _vstar_rows, _loader("vstar"), 4_000),
    lines_target("SAT rows", _sat_rows, _loader("sat"), 5_000),
    lines_target("BLINK rows", lambda _: _with_small(multi_view_rows()), _loader("blink-multi-view"), 5_000),
    lines_target("HR-Bench rows", lambda _: _with_small(hr_bench_rows(1)), _loader("hr-bench-4k"), 5_000),
    lines_target("MME-RealWorld rows", lambda _: _with_small(mme_rows()), _loader("mme-realworld-lite"), 5_000),
    lines_target(
        "TableVQA rows", lambda _: _with_small(tablevqa_rows("vwtq")), _loader("tablevqa"), 5_000, "vwtq.jsonl"
    ),
    lines_target("Visual-CoT rows", _visual_cot_rows, _layout("visual_cot"), 2_500),
    lines_target("Monet rows", _monet_rows, _layout("monet"), 5_000),
    Target("pictures", _pictures, 10_000),
    Target("predictions", _predictions, 10_000),
)
