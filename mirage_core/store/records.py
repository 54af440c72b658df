"""The project's records as parquet tables, which ``datasets.load_dataset("parquet")`` reads too.

``facts`` and ``details`` are JSON strings, since their keys differ from benchmark to benchmark; images are encoded
bytes. A column is named after its record's field, or as the codec of its table says. Every reader takes the file, or
the folder that holds it under its usual name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from mirage_core.store.codec import RecordCodec
from mirage_core.store.tables import column_names, count_rows, iter_columns, write_table
from mirage_core.types import AuxiliaryImage, Problem, ProvidedImage, Rejection, Scored, Split, TrainingExample

PROBLEMS_FILE = "problems.parquet"
AUXILIARY_IMAGES_FILE = "auxiliary_images.parquet"
EXAMPLES_FILE = "examples.parquet"
PREDICTIONS_FILE = "predictions.parquet"
REJECTIONS_FILE = "rejections.parquet"
PROVIDED_IMAGES_FILE = "given.parquet"

Record = TypeVar("Record")


class _Table(Generic[Record]):
    """The parquet table of one kind of record, under its usual file name."""

    def __init__(
        self,
        file_name: str,
        record: Any,
        columns: Mapping[str, str] | None = None,
        optional: Collection[str] = (),
    ) -> None:
        self._file_name = file_name
        self._codec: RecordCodec[Record] = RecordCodec(record, columns, optional)

    def save(self, path: Path, records: Iterable[Record], *, film: bool = False) -> None:
        """Write records as one parquet table, in their order; DataError if one does not fit its columns.

        Without ``film`` the table has no column of frames: it is then the very table of a recipe without films.
        """
        rows = map(partial(self._codec.encode, full=film), records)
        write_table(path, rows, self._codec.full_schema if film else self._codec.schema)

    def iter(self, path: Path, split: Split | None = None, *, frames: bool = True) -> Iterator[Record]:
        """Yield the records of one split or all, with a few hundred in memory at a time.

        Without ``frames`` those of a film are not read.
        """
        file = self.file(path)
        schema = self._codec.schema_of(column_names(file)) if frames else self._codec.schema
        rows = iter_columns(file, schema, equal={"split": split} if split else None)
        return (self._codec.decode(row, path) for row in rows)

    def load(self, path: Path, split: Split | None = None, *, frames: bool = True) -> list[Record]:
        """Read the records of one split or all; DataError names a file that is not such a table."""
        return list(self.iter(path, split, frames=frames))

    def file(self, path: Path) -> Path:
        """The table itself: ``path``, or the file of the usual name in that folder."""
        return path / self._file_name if path.is_dir() else path

    def select(self, *names: str) -> pa.Schema:
        """The schema of some of the columns."""
        return pa.schema([self._codec.schema.field(name) for name in names])


_PROBLEMS: _Table[Problem] = _Table(PROBLEMS_FILE, Problem)
_AUXILIARY_IMAGES: _Table[AuxiliaryImage] = _Table(AUXILIARY_IMAGES_FILE, AuxiliaryImage, optional=["frames"])
_PROVIDED_IMAGES: _Table[ProvidedImage] = _Table(PROVIDED_IMAGES_FILE, ProvidedImage, optional=["frames"])
_REJECTIONS: _Table[Rejection] = _Table(REJECTIONS_FILE, Rejection)
_EXAMPLES: _Table[TrainingExample] = _Table(
    EXAMPLES_FILE,
    TrainingExample,
    {
        "AuxiliaryImage.problem_id": "id",
        "AuxiliaryImage.image": "auxiliary_image",
        "AuxiliaryImage.style": "auxiliary_style",
        "AuxiliaryImage.details": "auxiliary_details",
        "AuxiliaryImage.frames": "auxiliary_frames",
        "ReasoningChain.problem_id": "id",
    },
    optional=["auxiliary_frames"],
)
_PREDICTIONS: _Table[Scored] = _Table(
    PREDICTIONS_FILE, Scored, {"LatentSpan.position": "span_positions", "LatentSpan.num_latents": "span_num_latents"}
)

save_problems, load_problems, iter_problems = _PROBLEMS.save, _PROBLEMS.load, _PROBLEMS.iter
save_auxiliary_images, load_auxiliary_images = _AUXILIARY_IMAGES.save, _AUXILIARY_IMAGES.load
iter_auxiliary_images = _AUXILIARY_IMAGES.iter
save_examples, load_examples, iter_examples = _EXAMPLES.save, _EXAMPLES.load, _EXAMPLES.iter
save_rejections, load_rejections = _REJECTIONS.save, _REJECTIONS.load
save_predictions, load_predictions = _PREDICTIONS.save, _PREDICTIONS.load
save_provided_images = _PROVIDED_IMAGES.save


def load_provided_images(path: Path) -> dict[str, ProvidedImage]:
    """Read the images that data sets provide, by problem; empty where the folder has no such table (most have none)."""
    if path.is_dir() and not (path / PROVIDED_IMAGES_FILE).is_file():
        return {}
    return {image.problem_id: image for image in _PROVIDED_IMAGES.iter(path)}


def count_problems(path: Path, without: Split | None = None) -> int:
    """Count the problems of a table, all or those ``without`` a split; images are not read."""
    file = _PROBLEMS.file(path)
    if without is None:
        return count_rows(file)
    return sum(row["split"] != without for row in iter_columns(file, _PROBLEMS.select("split")))


def count_by_split(folder: Path) -> dict[str, dict[str, int]]:
    """Count the problems (or examples) of each benchmark and split in a folder; images are not read."""
    file = next((folder / name for name in (PROBLEMS_FILE, EXAMPLES_FILE) if (folder / name).is_file()), folder)
    counts: dict[str, dict[str, int]] = {}
    for row in iter_columns(file, _PROBLEMS.select("benchmark", "split")):
        by_split = counts.setdefault(row["benchmark"], {})
        by_split[row["split"]] = by_split.get(row["split"], 0) + 1
    return counts
