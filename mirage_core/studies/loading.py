"""Load a study by name or YAML file; unknown keys, methods and names are refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mirage_core.config import Measure
from mirage_core.errors import SettingsError
from mirage_core.methods import METHODS
from mirage_core.recipes import FOLDER as RECIPES
from mirage_core.recipes import read_yaml
from mirage_core.recipes.keys import nearest
from mirage_core.recipes.renames import study_in_current_words
from mirage_core.studies.spec import Cell, Study, Sweep

FOLDER = RECIPES / "studies"


def names() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_study(name_or_path: str | Path, seeds: Sequence[int] = (), cells: Sequence[str] = ()) -> Study:
    """Load a study by its name, or a YAML file; ``seeds`` replace its own, ``cells`` select some of its cells.

    Raises SettingsError saying what was got and what was expected.
    """
    path = _find(str(name_or_path))
    data = study_in_current_words(read_yaml(path), str(path))
    _check(data, Study, str(path))
    _check_measures(data.get("measures"), str(path))
    for number, cell in enumerate(_cells_of(data)):
        _check(cell, Sweep if "sweep" in cell else Cell, f"{path}, cell {number + 1}")
    known = {"name": path.stem, **data, **({"seeds": list(seeds)} if seeds else {})}
    try:
        study = Study.model_validate({**known, "recipe": _recipe(known.get("recipe"), path)})
    except ValidationError as error:
        lines = "\n".join(f"  {_dotted(error['loc'])}: {error['msg']}" for error in error.errors())
        raise SettingsError(f"the study {path} is not valid:\n{lines}") from error
    return select_cells(study, cells) if cells else study


def select_cells(study: Study, cells: Sequence[str]) -> Study:
    """Return the study with these cells and its baseline alone, in its order. SettingsError for an unknown cell."""
    known = [cell.name for cell in study.all_cells()]
    for name in cells:
        if name not in known:
            raise SettingsError(
                f"got the cell {name!r}, expected some of {', '.join(known)} (study {study.name}){nearest(name, known)}"
            )
    selected = tuple(cell for cell in study.all_cells() if cell.name in {*cells, study.baseline})
    return study.model_copy(update={"cells": selected, "selected": tuple(dict.fromkeys(cells))})


def dump_study(study: Study) -> str:
    """Return the study as YAML, sweeps written out."""
    fields = study.model_dump(mode="json", exclude={"cells", "selected"}, exclude_defaults=True)
    cells = [cell.model_dump(mode="json", exclude_defaults=True) for cell in study.all_cells()]
    return yaml.safe_dump({**fields, "cells": cells}, sort_keys=False, allow_unicode=True)


def _find(name: str) -> Path:
    if name in names():
        return FOLDER / f"{name}.yaml"
    path = Path(name).expanduser().resolve()
    if path.is_file():
        return path
    raise SettingsError(
        f"got the study {name!r}, expected one of {', '.join(names())}, or a YAML file{nearest(name, names())}"
    )


def _recipe(recipe: Any, path: Path) -> Any:
    """Return a recipe's name unchanged; for a file beside the study its absolute path."""
    beside = path.parent / str(recipe)
    return str(beside.resolve()) if str(recipe).endswith((".yaml", ".yml")) and beside.is_file() else recipe


def _cells_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    cells = data.get("cells")
    return [cell for cell in cells if isinstance(cell, Mapping)] if isinstance(cells, list) else []


def _check(data: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    """Refuse unknown keys of a study, a cell or a sweep, and unknown methods."""
    known = [name for name in model.model_fields if name not in ("swept", "selected")]
    for key in data:
        if key not in known:
            raise SettingsError(
                f"{where}: got the unknown key {key}, expected one of {', '.join(known)}{nearest(str(key), known)}"
            )
    method, methods = data.get("method"), [*METHODS]
    if "method" in known and method is not None and method not in methods:
        raise SettingsError(
            f"{where}: got the method {method!r}, expected one of {', '.join(methods)}{nearest(str(method), methods)}"
        )


def _check_measures(measures: Any, where: str) -> None:
    """Refuse unknown measures."""
    known = get_args(Measure)
    for name in measures if isinstance(measures, list) else []:
        if name not in known:
            raise SettingsError(
                f"{where}: got the measure {name!r}, expected some of {', '.join(known)}{nearest(str(name), known)}"
            )


def _dotted(location: Sequence[int | str]) -> str:
    """Return ``cells.2.name``, without the names of the classes that were tried."""
    return ".".join(str(part) for part in location if part not in ("Cell", "Sweep")) or "the study"
