"""Prompt templates of a teacher: YAML files by variant and benchmark, with a version, known by their content.

``<variant>.yaml`` is the frame, ``<variant>.<benchmark>.yaml`` replaces what is special of a task.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

from mirage_core.errors import SettingsError
from mirage_core.store.digests import canonical_json

FOLDER = Path(__file__).parent / "templates"
LARGEST = 100_000
_TEXTS = ("system", "user", "again", "about")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The words of one variant and task; ``label`` names them with their versions (``mirage/cot.sat@1.1``)."""

    label: str
    system: str
    user: str
    again: str
    about: str
    sha256: str = field(repr=False)

    def question(self, *, question: str, answer: str) -> str:
        """What the teacher is asked, with ``<image>`` and ``<auxiliary_image>`` where pictures stand."""
        return _filled(self.user, self.label, question=question, answer=answer, about=self.about)

    def complaint(self, reasons: str) -> str:
        """What the teacher is told about an answer that was not accepted."""
        return _filled(self.again, self.label, reasons=reasons)


def load_prompt(name: str, variant: str, benchmark: str) -> Prompt:
    """The prompt of a set's name, or of a folder of one's own; SettingsError says which file or key is wrong."""
    folder = _folder(name)
    frame_file, task_file = folder / f"{variant}.yaml", folder / f"{variant}.{benchmark}.yaml"
    if not frame_file.is_file():
        known = ", ".join(sorted({path.name.split(".")[0] for path in folder.glob("*.yaml")}))
        raise SettingsError(f"the templates {name!r} have none for the variant {variant!r}; they have: {known}")
    frame = _read(frame_file)
    task = _read(task_file) if task_file.is_file() else {}
    texts = {key: str(task.get(key, frame.get(key, ""))) for key in _TEXTS}
    versions = ".".join(str(part["version"]) for part in (frame, task) if part)
    digest = hashlib.sha256(canonical_json(texts)).hexdigest()
    which = f"{variant}.{benchmark}" if task else variant
    return Prompt(label=f"{folder.name}/{which}@{versions}", sha256=digest, **texts)


def templates_identity(name: str, variant: str) -> dict[str, Any]:
    """What a set's prompts for a variant are, wherever they lie: each file's version and the digest of its content."""
    folder = _folder(name)
    files = [folder / f"{variant}.yaml", *sorted(folder.glob(f"{variant}.*.yaml"))]
    load_prompt(name, variant, "")  # a wrong file is said before the work
    read = {path.name: _read(path) for path in files}
    return {
        file: {"version": content["version"], "sha256": hashlib.sha256(canonical_json(content)).hexdigest()}
        for file, content in sorted(read.items())
    }


def _folder(name: str) -> Path:
    sets = {path.name: path for path in FOLDER.iterdir() if path.is_dir()}
    folder = sets.get(name, Path(name).expanduser())
    if not folder.is_dir():
        known = ", ".join(sorted(sets))
        raise SettingsError(f"teacher.template is {name!r}, expected one of {known}, or a folder of templates")
    return folder.resolve()


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path} has more than {LARGEST} bytes: that is not a template")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"the template {path} cannot be read: {error}") from error
    known = ("version", *_TEXTS)
    if not isinstance(content, dict) or type(content.get("version")) is not int or not set(content) <= set(known):
        raise SettingsError(f"the template {path} must hold a whole number `version`, and of {', '.join(_TEXTS)} texts")
    missing = [key for key in ("user", "again") if path.name.count(".") == 1 and key not in content]
    if missing:
        raise SettingsError(f"the template {path} lacks {' and '.join(missing)}")
    return content


def _filled(text: str, label: str, **values: str) -> str:
    try:
        return Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${name}" for name in values)
        raise SettingsError(
            f"template {label}: {error} is no placeholder; known here: {known} (a dollar sign is written $$)"
        ) from error
