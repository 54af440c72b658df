"""From every source the same three stages give a training set that can be opened, looked at and trusted."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirage_core.config import Settings
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import load_examples, load_problems
from mirage_core.types import Artifact
from tests.benchmarks.data_sets import comt_folder, photographs, picture, sat_folder
from tests.benchmarks.public_data import vstar_folder
from tests.synthesis.tiny_video import tiny_cogvideox

NO_MAZES = ["problems.vsp_planning=null", "problems.vsp_reasoning=null"]

PUZZLES = "{train_levels: [3, 4], test_levels: [3], train: 6, validation: 2, test_per_level: 2}"


def jigsaw(folder: Path) -> list[str]:
    section = "problems.jigsaw"
    counts = [f"{section}.train=6", f"{section}.validation=1", f"{section}.test=3", f"{section}.side_px=64"]
    return [f"{section}.pictures={photographs(folder, 40)}", *counts]


def mental_rotation(folder: Path) -> list[str]:
    return [f"problems.mental_rotation={PUZZLES}", "teacher.variant=cot", "auxiliary_images.film=forward"]


def paper_folding(folder: Path) -> list[str]:
    return [f"problems.paper_folding={PUZZLES}", "teacher.variant=cot"]


def sat(folder: Path) -> list[str]:
    scenes = "auxiliary_images.scenes"
    small = ["width=16", "height=16", "num_frames=9", "steps=1", "max_text_tokens=16", "dtype=float32"]
    data = [f"problems.sat.source={sat_folder(folder / 'sat')}", "problems.sat.train=4", "problems.sat.validation=0"]
    return [*data, f"{scenes}.model={tiny_cogvideox(folder / 'video')}", *(f"{scenes}.{text}" for text in small)]


def comt(folder: Path) -> list[str]:
    counts = ["problems.comt.train=5", "problems.comt.validation=0"]
    return [f"problems.comt.source={comt_folder(folder, 40)}", *counts, "teacher.variant=cot"]


def own(folder: Path) -> list[str]:
    (folder / "a.png").write_bytes(picture(1))
    (folder / "b.png").write_bytes(picture(2))
    lines: list[dict[str, Any]] = [
        {
            "question": f"Question {n}: which exit?", "images": ["a.png"], "options": ["left", "right"],
            "answer": "right", "auxiliary_image": "b.png", "split": "train" if n else "test",
        }
        for n in range(4)
    ]  # fmt: skip
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [f"problems.own.file={folder / 'mine.jsonl'}"]


STYLES = {
    "mental-rotation": "turned",
    "paper-folding": "unfolded",
    "jigsaw": "stitched",
    "sat": "cogvideox-frame",
    "comt": "rationale",
    "own": "own",
}


@pytest.mark.parametrize(
    "source", [mental_rotation, paper_folding, jigsaw, sat, comt, own], ids=lambda source: source.__name__
)
def test_every_source_gives_a_training_set_with_its_card(source: Callable[[Path], list[str]], tmp_path: Path) -> None:
    data, name = tmp_path / "data", source.__name__.replace("_", "-")
    data.mkdir()
    settings = load("micro", [*NO_MAZES, *source(data)])
    store = Store.open(tmp_path / "store")
    artifact = made_examples(settings, store)
    folder = store.fetch(artifact)
    examples = load_examples(folder)

    assert examples and {example.problem.benchmark for example in examples} == {name}
    assert {example.auxiliary_image.style for example in examples} == {STYLES[name]}
    assert {example.chain.teacher for example in examples} == {"data set" if name == "comt" else "oracle"}
    for example in examples:
        assert example.problem.split != "test" and f"\\boxed{{{example.problem.answer}}}" in example.chain.text_after
        assert Image.open(io.BytesIO(example.auxiliary_image.image)).size
    card = json.loads((folder / "card.json").read_text())
    assert card["examples"] == len(examples) and card["auxiliary_images"] == {STYLES[name]: len(examples)}
    assert str(data) not in (folder / "card.json").read_text(), "the card depends on where the data lies"
    assert (folder / "contact-sheet.png").stat().st_size > 1000
    assert "<article>" in (folder / "contact-sheet.html").read_text()
    opens_as_a_data_set(folder, len(examples))


def test_a_published_benchmark_is_tested_on_beside_what_is_trained_on(tmp_path: Path) -> None:
    mazes = "{train_levels: [3], test_levels: [3], train: 3, validation: 0, test_per_level: 2}"
    sets = [f"problems.vsp_planning={mazes}", "problems.vsp_reasoning=null"]
    settings = load("micro", [*sets, f"problems.vstar.source={vstar_folder(tmp_path / 'vstar')}"])
    store = Store.open(tmp_path / "store")
    examples = load_examples(store.fetch(made_examples(settings, store)))
    (problems,) = store.list("problems")

    assert {example.problem.benchmark for example in examples} == {"vsp-planning"}
    tested = load_problems(store.fetch(problems), split="test")
    assert Counter(problem.benchmark for problem in tested) == {"vsp-planning": 2, "vstar": 4}


def made_examples(settings: Settings, store: Store) -> Artifact:
    """The artifact of the stage ``examples``, from nothing."""

    def step(name: str, **inputs: Artifact) -> Artifact:
        return run_stage(STAGES[name], settings, inputs, store, lambda event: None).artifact

    problems = step("problems")
    pictures = step("auxiliary-images", problems=problems)
    return step("examples", problems=problems, auxiliary_images=pictures)


def opens_as_a_data_set(folder: Path, count: int) -> None:
    """``datasets`` reads the table as it is."""
    import datasets

    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "examples.parquet"), split="train", cache_dir=str(folder.parent / "cache")
    )
    assert len(table) == count and {"question", "auxiliary_image", "text_before", "answer"} <= set(table.column_names)
