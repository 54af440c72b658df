"""Safetensors files that lie in a model's folder: read whole or by the beginnings of names, or refused by name."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mirage_core.errors import SettingsError
from mirage_core.json_values import read_json


def read_tensors(file: Path, prefixes: tuple[str, ...] = ("",)) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors whose names begin so, and the file's metadata; SettingsError for a file that is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(prefixes)]  # noqa: SIM118 -- no dict
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{file} is no safetensors file ({str(error)[:200]}): fetch the model folder again"
        ) from error


def files_of_weights(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """Return the existing files of a folder that hold weights whose names begin so, by its index where it has one.

    SettingsError for an index that is damaged, or names files elsewhere.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        names = {"model.safetensors"}
    else:
        try:
            places = dict(read_json(index.read_bytes())["weight_map"])
            names = {str(file) for name, file in places.items() if str(name).startswith(prefixes)}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{index} is no index of weights ({error}): fetch the model folder again") from error
    elsewhere = sorted(name for name in names if name in ("", ".", "..") or Path(name).name != name)
    if elsewhere:
        raise SettingsError(f"{index} names the file {elsewhere[0]!r:.80}, expected one beside it")
    return [folder / name for name in sorted(names) if (folder / name).is_file()]
