"""Data sets through the library ``datasets``, from folders with the published card, file names and column types.

Where each layout was seen: the cards' YAML at huggingface.co/datasets/array/SAT and array/SAT-v2 (README.md), and
terryoo/TableVQA-Bench (tree/main/data); BLINK-Benchmark/BLINK by deepwiki.com/zeyofu/BLINK_Benchmark, "Loading the
dataset"; DreamMr/HR-Bench (tree/main); yifanzhang114/MME-RealWorld-lite-lmms-eval (tree/main/data).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mirage_core import benchmarks
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import blink_folder, sat_rows, write_parquet
from tests.benchmarks.public_data import hr_bench_rows, mme_rows, multi_view_rows, tablevqa_rows

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: the data set owner/name is its folder owner/name, read by the real library."""
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *rest, **options: load(str(tmp_path / name), *rest, **options)
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path.parent)
    return tmp_path


def card(
    folder: Path, splits: Mapping[str, str], features: Sequence[Mapping[str, Any]], config: str = "default"
) -> None:
    """Write a data set's card: the files of each split, and the types of the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [{"split": split, "path": path} for split, path in splits.items()]
    head = {
        "configs": [{"config_name": config, "data_files": files}],
        "dataset_info": {"config_name": config, "features": list(features)},
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# A data set\n")


def table(file: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> None:
    """Write rows as parquet with the given types of columns, the others as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
    pq.write_table(pa.table(columns), file)


SAT_FEATURES = (
    {"name": "question", "dtype": "string"},
    {"name": "answers", "list": {"dtype": "string"}},
    {"name": "question_type", "dtype": "string"},
    {"name": "correct_answer", "dtype": "string"},
)


def sat_on(hub: Path) -> list[dict[str, Any]]:
    """array/SAT: a file a split in the root, image_bytes a list of plain bytes that the card calls images."""
    rows, folder = sat_rows(3), hub / "array" / "SAT"
    splits = {name: f"SAT_{name}.parquet" for name in ("train", "static", "val", "test")}
    card(folder, splits, [{"name": "image_bytes", "list": {"dtype": "image"}}, *SAT_FEATURES])
    for number, file in enumerate(splits.values()):
        table(
            folder / file,
            rows if file == "SAT_test.parquet" else sat_rows(1, 50 + number),
            {"image_bytes": pa.list_(pa.binary())},
        )
    return rows


def sat_v2_on(hub: Path) -> list[dict[str, Any]]:
    """array/SAT-v2: data/<split>-*, the column images a sequence of images with bytes and path."""
    rows, folder = sat_rows(3), hub / "array" / "SAT-v2"
    splits = {name: f"data/{name}-*" for name in ("train", "static", "val", "test")}
    card(folder, splits, [{"name": "images", "sequence": "image"}, *SAT_FEATURES])
    for number, split in enumerate(splits):
        shown = rows if split == "test" else sat_rows(1, 50 + number)
        stored = [{**row, "images": [{"bytes": data, "path": None} for data in row["image_bytes"]]} for row in shown]
        bare = [{name: value for name, value in row.items() if name != "image_bytes"} for row in stored]
        table(folder / f"data/{split}-00000-of-00001.parquet", bare, {"images": pa.list_(IMAGE)})
    return rows


@pytest.mark.parametrize(("name", "publish", "file"), [
    ("array/SAT", sat_on, "SAT_test.parquet"), ("array/SAT-v2", sat_v2_on, "data/test-00000-of-00001.parquet"),
])  # fmt: skip
def test_sat_is_the_same_by_hub_id_by_folder_and_by_file(hub: Path, name: str, publish: Any, file: str) -> None:
    rows = publish(hub)
    load = benchmarks.get("sat").load
    problems = load(name)

    assert problems == load(hub / name) == load(hub / name / file)
    assert [problem.images for problem in problems[::2]] == [tuple(row["image_bytes"]) for row in rows]


def test_blink_is_read_by_the_configuration_of_its_part(hub: Path) -> None:
    folder = hub / "BLINK-Benchmark" / "BLINK"
    blink_folder(folder)
    write_parquet(folder / "Multi-view_Reasoning" / "val-00000-of-00001.parquet", multi_view_rows())
    features = [
        *({"name": name, "dtype": "string"} for name in ("idx", "sub_task", "question", "prompt")),
        {"name": "choices", "sequence": "string"}, {"name": "answer", "dtype": "string"},
        *({"name": f"image_{at}", "dtype": "image"} for at in (1, 2, 3, 4)),
    ]  # fmt: skip
    for config, name in (("Jigsaw", "jigsaw"), ("Multi-view_Reasoning", "blink-multi-view")):
        card(folder, {"val": f"{config}/val-*"}, features, config)
        (first, *_) = benchmarks.get(name).load("BLINK-Benchmark/BLINK")
        assert first == benchmarks.get(name).load(folder)[0] and first.images


def test_rows_of_another_part_of_blink_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "sub_task": "Visual_Correspondence"} for row in multi_view_rows()]
    with pytest.raises(DataError, match="it is of 'Visual_Correspondence', expected 'Multi-view_Reasoning'"):
        benchmarks.get("blink-multi-view").load(write_parquet(tmp_path / "val-0.parquet", rows))


def test_tablevqa_has_a_split_a_part(hub: Path) -> None:
    folder, parts = hub / "terryoo" / "TableVQA-Bench", ("vwtq", "vwtq_syn", "vtabfact", "fintabnetqa")
    text = ("qa_id", "question", "text_html_table", "gt")
    features = [{"name": "image", "dtype": "image"}, *({"name": name, "dtype": "string"} for name in text)]
    card(folder, {part: f"data/{part}-*" for part in parts}, features)
    for part in parts:
        table(folder / f"data/{part}-00000-of-00001-2daaa7285aca2c1d.parquet", tablevqa_rows(part), {"image": IMAGE})
    load = benchmarks.get("tablevqa").load

    assert load("terryoo/TableVQA-Bench") == load(folder)
    assert {problem.group for problem in load(folder)} == set(parts)


def test_mme_realworld_lite_has_its_only_split_in_several_files(hub: Path) -> None:
    folder, rows = hub / "yifanzhang114" / "MME-RealWorld-lite-lmms-eval", mme_rows()
    text = ("bytes", "question", "answer", "category", "l2-category")
    features = [{"name": "index", "dtype": "int64"}, *({"name": name, "dtype": "string"} for name in text),
                {"name": "multi-choice options", "sequence": "string"}]  # fmt: skip
    card(folder, {"train": "data/train-*"}, features)
    for number, row in enumerate(rows):
        write_parquet(folder / f"data/train-{number:05d}-of-{len(rows):05d}.parquet", [row])
    load = benchmarks.get("mme-realworld-lite").load

    assert load("yifanzhang114/MME-RealWorld-lite-lmms-eval") == load(folder)
    assert len(load(folder)) == len(rows)


def hr_bench_root(folder: Path) -> Path:
    """A clone of DreamMr/HR-Bench: hr_bench_4k and hr_bench_8k in the root, each as parquet and as TSV."""
    for size in ("4k", "8k"):
        rows = hr_bench_rows(2 if size == "4k" else 1)
        write_parquet(folder / f"hr_bench_{size}.parquet", rows)
        with (folder / f"hr_bench_{size}.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_hr_bench_is_the_same_from_its_clone_by_parquet_and_by_tsv(tmp_path: Path) -> None:
    folder = hr_bench_root(tmp_path)
    load = benchmarks.get("hr-bench-4k").load
    problems = load(folder)
    assert len(problems) == 8 and len(benchmarks.get("hr-bench-8k").load(folder)) == 4
    assert load(folder / "hr_bench_4k.tsv") == problems
    for file in folder.glob("*.parquet"):
        file.unlink()
    assert load(folder) == problems


@pytest.mark.parametrize(("benchmark", "kept"), [("hr-bench-4k", "hr_bench_8k.parquet"), ("sat", "SAT_train.parquet")])
def test_rows_of_another_split_are_never_taken_for_the_wanted_one(tmp_path: Path, benchmark: str, kept: str) -> None:
    write_parquet(tmp_path / kept, hr_bench_rows(1) if benchmark == "hr-bench-4k" else sat_rows(2))
    with pytest.raises(DataError, match=rf"holds no file of the split .* but of .* \({kept}"):
        benchmarks.get(benchmark).load(tmp_path)
