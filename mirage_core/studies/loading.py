"""Reading a study: its name or a YAML file; a key, a method or a name that is not known is refused with the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mirage_core.config import Measure, Method
from mirage_core.errors import SettingsError
from mirage_core.recipes import FOLDER as RECIPES
from mirage_core.recipes import read_yaml
from mirage_core.recipes.keys import nearest
from mirage_core.studies.spec import Cell, Study, Sweep

FOLDER = RECIPES / "studies"


def names() -> list[str]:
    """The studies that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_study(name_or_path: str | Path, seeds: Sequence[int] = (), cells: Sequence[str] = ()) -> Study:
    """Read a study by its name, or a YAML file; ``seeds`` take the place of its own, ``cells`` are those to keep.

    Raises SettingsError saying what was got and what was expected.
    """
    path = _find(str(name_or_path))
    data = read_yaml(path)
    _check(data, Study, str(path))
    _check_measures(data.get("measures"), str(path))
    for number, cell in enumerate(_listed(data)):
        _check(cell, Sweep if "sweep" in cell else Cell, f"{path}, cell {number + 1}")
    known = {"name": path.stem, **data, **({"seeds": list(seeds)} if seeds else {})}
    try:
        study = Study.model_validate({**known, "recipe": _recipe(known.get("recipe"), path)})
    except ValidationError as error:
        lines = "\n".join(f"  {_place(error['loc'])}: {error['msg']}" for error in error.errors())
        raise SettingsError(f"the study {path} is not valid:\n{lines}") from error
    return only(study, cells) if cells else study


def only(study: Study, cells: Sequence[str]) -> Study:
    """The study with these cells alone, and its baseline, in its own order. SettingsError for a cell it lacks."""
    known = [cell.name for cell in study.all_cells()]
    for name in cells:
        if name not in known:
            raise SettingsError(
                f"got the cell {name!r}, expected some of {', '.join(known)} (study {study.name}){nearest(name, known)}"
            )
    kept = tuple(cell for cell in study.all_cells() if cell.name in {*cells, study.baseline})
    return study.model_copy(update={"cells": kept, "kept": tuple(dict.fromkeys(cells))})


def dump_study(study: Study) -> str:
    """The study as YAML, sweeps written out."""
    told = study.model_dump(mode="json", exclude={"cells", "kept"}, exclude_defaults=True)
    cells = [cell.model_dump(mode="json", exclude_defaults=True) for cell in study.all_cells()]
    return yaml.safe_dump({**told, "cells": cells}, sort_keys=False, allow_unicode=True)


def _find(name: str) -> Path:
    if name in names():
        return FOLDER / f"{name}.yaml"
    path = Path(name).expanduser().resolve()
    if path.is_file():
        return path
    raise SettingsError(
        f"got the study {name!r}, expected one of {', '.join(names())}, or a YAML file{nearest(name, names())}"
    )


def _recipe(told: Any, path: Path) -> Any:
    """A recipe's name as it is; a file beside the study by its whole path, so that it is found from anywhere."""
    beside = path.parent / str(told)
    return str(beside.resolve()) if str(told).endswith((".yaml", ".yml")) and beside.is_file() else told


def _listed(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    cells = data.get("cells")
    return [cell for cell in cells if isinstance(cell, Mapping)] if isinstance(cells, list) else []


def _check(data: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    """Refuse keys that a study, a cell or a sweep does not have, and methods that there are not."""
    known = [name for name in model.model_fields if name not in ("swept", "kept")]
    for key in data:
        if key not in known:
            raise SettingsError(
                f"{where}: got the unknown key {key}, expected one of {', '.join(known)}{nearest(str(key), known)}"
            )
    method, methods = data.get("method"), get_args(Method)
    if "method" in known and method is not None and method not in methods:
        raise SettingsError(
            f"{where}: got the method {method!r}, expected one of {', '.join(methods)}{nearest(str(method), methods)}"
        )


def _check_measures(told: Any, where: str) -> None:
    """Refuse measures that there are not."""
    known = get_args(Measure)
    for name in told if isinstance(told, list) else []:
        if name not in known:
            raise SettingsError(
                f"{where}: got the measure {name!r}, expected some of {', '.join(known)}{nearest(str(name), known)}"
            )


def _place(location: Sequence[int | str]) -> str:
    """``cells.2.name`` without the names of the classes that were tried."""
    return ".".join(str(part) for part in location if part not in ("Cell", "Sweep")) or "the study"
