"""The project's records as parquet tables, which ``datasets.load_dataset("parquet")`` reads too.

``facts`` and ``details`` are JSON strings, since their keys differ from benchmark to benchmark; pictures are the
encoded bytes. Every reader takes the file, or the folder it lies in under its usual name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from mirage_core.errors import DataError
from mirage_core.store.digests import canonical_json
from mirage_core.store.tables import count_rows, iter_columns, write_table
from mirage_core.types import (
    AuxiliaryImage,
    Given,
    LatentSpan,
    Prediction,
    Problem,
    ReasoningChain,
    Rejection,
    Score,
    Split,
    TrainingExample,
)

PROBLEMS_FILE = "problems.parquet"
AUXILIARY_IMAGES_FILE = "auxiliary_images.parquet"
EXAMPLES_FILE = "examples.parquet"
PREDICTIONS_FILE = "predictions.parquet"
REJECTIONS_FILE = "rejections.parquet"
GIVEN_FILE = "given.parquet"


def _required(*columns: tuple[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in columns]


_PROBLEM = _required(
    ("id", pa.string()),
    ("benchmark", pa.string()),
    ("split", pa.string()),
    ("group", pa.string()),
    ("question", pa.string()),
    ("images", pa.list_(pa.binary())),
    ("answer", pa.string()),
    ("facts", pa.string()),
)
_AUXILIARY_IMAGE = _required(
    ("problem_id", pa.string()), ("image", pa.binary()), ("style", pa.string()), ("details", pa.string())
)
_EXAMPLE = [
    *_PROBLEM,
    *_required(
        ("auxiliary_image", pa.binary()),
        ("auxiliary_style", pa.string()),
        ("auxiliary_details", pa.string()),
        ("variant", pa.string()),
        ("text_before", pa.string()),
        ("text_after", pa.string()),
        ("teacher", pa.string()),
        ("caption", pa.string()),
    ),
]
_GIVEN = [
    *_required(("problem_id", pa.string()), ("image", pa.binary()), ("style", pa.string())),
    pa.field("text_before", pa.string()),
    pa.field("text_after", pa.string()),
]
_REJECTION = _required(
    ("problem_id", pa.string()),
    ("benchmark", pa.string()),
    ("split", pa.string()),
    ("group", pa.string()),
    ("variant", pa.string()),
    ("teacher", pa.string()),
    ("attempt", pa.int32()),
    ("reason", pa.string()),
    ("faults", pa.string()),
    ("answer", pa.string()),
    ("left_out", pa.bool_()),
)
_PREDICTION = [
    *_required(
        ("problem_id", pa.string()),
        ("benchmark", pa.string()),
        ("group", pa.string()),
        ("method", pa.string()),
        ("sample", pa.int32()),
        ("output", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("span_positions", pa.list_(pa.int32())),
        ("span_num_latents", pa.list_(pa.int32())),
        ("finished", pa.bool_()),
        ("correct", pa.bool_()),
    ),
    pa.field("parsed", pa.string()),
    *_required(("rule", pa.string())),
]


def save_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems as one parquet table, in their order."""
    write_table(path, map(_problem_row, problems), pa.schema(_PROBLEM))


def load_problems(path: Path, split: Split | None = None) -> list[Problem]:
    """Read problems, of one split or all; DataError names a file that is not such a table."""
    return list(iter_problems(path, split))


def iter_problems(path: Path, split: Split | None = None) -> Iterator[Problem]:
    """The problems of a table one by one, a few hundred in memory at a time."""
    return (_problem(row, path) for row in _rows(path, PROBLEMS_FILE, _PROBLEM, split))


def count_problems(path: Path, without: Split | None = None) -> int:
    """How many problems a table holds, all or those ``without`` a split; pictures are not read."""
    file = path / PROBLEMS_FILE if path.is_dir() else path
    if without is None:
        return count_rows(file)
    return sum(
        row["split"] != without for row in iter_columns(file, pa.schema([f for f in _PROBLEM if f.name == "split"]))
    )


def count_by_split(folder: Path) -> dict[str, dict[str, int]]:
    """How many problems (or examples) of each benchmark and split a folder holds; pictures are not read."""
    file = next((folder / name for name in (PROBLEMS_FILE, EXAMPLES_FILE) if (folder / name).is_file()), folder)
    counts: dict[str, dict[str, int]] = {}
    for row in iter_columns(file, pa.schema([field for field in _PROBLEM if field.name in ("benchmark", "split")])):
        of_benchmark = counts.setdefault(row["benchmark"], {})
        of_benchmark[row["split"]] = of_benchmark.get(row["split"], 0) + 1
    return counts


def save_auxiliary_images(path: Path, images: Iterable[AuxiliaryImage]) -> None:
    """Write auxiliary images as one parquet table, in their order."""
    write_table(path, map(_image_row, images), pa.schema(_AUXILIARY_IMAGE))


def load_auxiliary_images(path: Path) -> list[AuxiliaryImage]:
    """Read auxiliary images; DataError names a file that is not such a table."""
    return list(iter_auxiliary_images(path))


def iter_auxiliary_images(path: Path) -> Iterator[AuxiliaryImage]:
    """The auxiliary images of a table one by one, a few hundred in memory at a time."""
    return (
        AuxiliaryImage(
            problem_id=row["problem_id"],
            image=row["image"],
            style=row["style"],
            details=_json_object(row["details"], path, row["problem_id"]),
        )
        for row in _rows(path, AUXILIARY_IMAGES_FILE, _AUXILIARY_IMAGE)
    )


def save_given(path: Path, given: Iterable[Given]) -> None:
    """Write what data sets bring beside their problems as one parquet table, in their order."""
    write_table(path, map(asdict, given), pa.schema(_GIVEN))


def load_given(path: Path) -> dict[str, Given]:
    """Read what data sets brought, by problem; empty where the folder holds no such table, since most bring nothing."""
    if path.is_dir() and not (path / GIVEN_FILE).is_file():
        return {}
    return {row["problem_id"]: Given(**row) for row in _rows(path, GIVEN_FILE, _GIVEN)}


def save_examples(path: Path, examples: Iterable[TrainingExample]) -> None:
    """Write training examples (problem, picture, chain in one row) as one parquet table, in their order."""
    write_table(path, map(_example_row, examples), pa.schema(_EXAMPLE))


def load_examples(path: Path, split: Split | None = None) -> list[TrainingExample]:
    """Read training examples, of one split or all; DataError names a file that is not such a table."""
    return list(iter_examples(path, split))


def iter_examples(path: Path, split: Split | None = None) -> Iterator[TrainingExample]:
    """The training examples of a table one by one, a few hundred in memory at a time."""
    return (_example(row, path) for row in _rows(path, EXAMPLES_FILE, _EXAMPLE, split))


def save_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write a teacher's answers that were not accepted as one parquet table, in their order."""
    write_table(path, map(asdict, rejections), pa.schema(_REJECTION))


def load_rejections(path: Path) -> list[Rejection]:
    """Read the answers that were not accepted; DataError names a file that is not such a table."""
    return [Rejection(**row) for row in _rows(path, REJECTIONS_FILE, _REJECTION)]


def save_predictions(path: Path, scored: Iterable[tuple[Prediction, Score]]) -> None:
    """Write predictions, each with its score in the same row, in their order; DataError if a pair does not belong."""
    write_table(path, (_prediction_row(prediction, score) for prediction, score in scored), pa.schema(_PREDICTION))


def load_predictions(path: Path) -> list[tuple[Prediction, Score]]:
    """Read predictions with their scores; DataError names a file that is not such a table."""
    return [_prediction(row) for row in _rows(path, PREDICTIONS_FILE, _PREDICTION)]


def _rows(path: Path, usual: str, fields: list[pa.Field], split: Split | None = None) -> Iterator[dict[str, Any]]:
    file = path / usual if path.is_dir() else path
    return iter_columns(file, pa.schema(fields), equal={"split": split} if split else None)


def _problem_row(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "benchmark": problem.benchmark,
        "split": problem.split,
        "group": problem.group,
        "question": problem.question,
        "images": list(problem.images),
        "answer": problem.answer,
        "facts": canonical_json(dict(problem.facts)).decode(),
    }


def _problem(row: Mapping[str, Any], path: Path) -> Problem:
    return Problem(
        id=row["id"],
        benchmark=row["benchmark"],
        split=row["split"],
        group=row["group"],
        question=row["question"],
        images=tuple(row["images"]),
        answer=row["answer"],
        facts=_json_object(row["facts"], path, row["id"]),
    )


def _image_row(image: AuxiliaryImage) -> dict[str, Any]:
    details = canonical_json(dict(image.details)).decode()
    return {"problem_id": image.problem_id, "image": image.image, "style": image.style, "details": details}


def _example_row(example: TrainingExample) -> dict[str, Any]:
    problem, image, chain = example.problem, example.auxiliary_image, example.chain
    if not problem.id == image.problem_id == chain.problem_id:
        raise DataError(f"an example mixes the problems {problem.id}, {image.problem_id} and {chain.problem_id}")
    return {
        **_problem_row(problem),
        "auxiliary_image": image.image,
        "auxiliary_style": image.style,
        "auxiliary_details": canonical_json(dict(image.details)).decode(),
        "variant": chain.variant,
        "text_before": chain.text_before,
        "text_after": chain.text_after,
        "teacher": chain.teacher,
        "caption": chain.caption,
    }


def _example(row: Mapping[str, Any], path: Path) -> TrainingExample:
    image = AuxiliaryImage(
        problem_id=row["id"],
        image=row["auxiliary_image"],
        style=row["auxiliary_style"],
        details=_json_object(row["auxiliary_details"], path, row["id"]),
    )
    chain = ReasoningChain(
        problem_id=row["id"],
        variant=row["variant"],
        text_before=row["text_before"],
        text_after=row["text_after"],
        teacher=row["teacher"],
        caption=row["caption"],
    )
    return TrainingExample(problem=_problem(row, path), auxiliary_image=image, chain=chain)


def _prediction_row(prediction: Prediction, score: Score) -> dict[str, Any]:
    if prediction.problem_id != score.problem_id:
        raise DataError(f"the prediction of {prediction.problem_id} was paired with the score of {score.problem_id}")
    return {
        "problem_id": prediction.problem_id,
        "benchmark": prediction.benchmark,
        "group": prediction.group,
        "method": prediction.method,
        "sample": prediction.sample,
        "output": prediction.output,
        "token_ids": list(prediction.token_ids),
        "span_positions": [span.position for span in prediction.spans],
        "span_num_latents": [span.num_latents for span in prediction.spans],
        "finished": prediction.finished,
        "correct": score.correct,
        "parsed": score.parsed,
        "rule": score.rule,
    }


def _prediction(row: Mapping[str, Any]) -> tuple[Prediction, Score]:
    spans = zip(row["span_positions"], row["span_num_latents"], strict=True)
    prediction = Prediction(
        problem_id=row["problem_id"],
        benchmark=row["benchmark"],
        group=row["group"],
        method=row["method"],
        output=row["output"],
        token_ids=tuple(row["token_ids"]),
        spans=tuple(LatentSpan(position=position, num_latents=count) for position, count in spans),
        finished=row["finished"],
        sample=row["sample"],
    )
    score = Score(problem_id=row["problem_id"], correct=row["correct"], parsed=row["parsed"], rule=row["rule"])
    return prediction, score


def _json_object(text: str, path: Path, problem_id: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: problem {problem_id} has facts that are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: problem {problem_id} has facts of type {type(value).__name__}, expected an object")
    return value
