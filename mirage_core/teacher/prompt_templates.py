"""Prompt templates of a teacher: YAML files by variant and benchmark, with a version and a content digest.

``<variant>.yaml`` is the base template, ``<variant>.<benchmark>.yaml`` overrides texts for a benchmark.
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
    """The texts of one variant and benchmark; ``label`` names them with their versions (``mirage/cot.sat@1.1``)."""

    label: str
    system: str
    user: str
    again: str
    about: str
    sha256: str = field(repr=False)

    def question(self, *, question: str, answer: str) -> str:
        """Return the question, with ``<image>`` and ``<auxiliary_image>`` in the places of images."""
        return _fill(self.user, self.label, question=question, answer=answer, about=self.about)

    def complaint(self, reasons: str) -> str:
        """Return the request to correct a rejected answer."""
        return _fill(self.again, self.label, reasons=reasons)


def load_prompt(name: str, variant: str, benchmark: str) -> Prompt:
    """Load a prompt of a template set by name, or of a user's folder; SettingsError names the wrong file or key."""
    folder = _folder(name)
    base_file, benchmark_file = folder / f"{variant}.yaml", folder / f"{variant}.{benchmark}.yaml"
    if not base_file.is_file():
        known = ", ".join(sorted({path.name.split(".")[0] for path in folder.glob("*.yaml")}))
        raise SettingsError(f"the templates {name!r} have none for the variant {variant!r}; they have: {known}")
    base = _read(base_file)
    override = _read(benchmark_file) if benchmark_file.is_file() else {}
    texts = {key: str(override.get(key, base.get(key, ""))) for key in _TEXTS}
    versions = ".".join(str(part["version"]) for part in (base, override) if part)
    digest = hashlib.sha256(canonical_json(texts)).hexdigest()
    name = f"{variant}.{benchmark}" if override else variant
    return Prompt(label=f"{folder.name}/{name}@{versions}", sha256=digest, **texts)


def templates_identity(name: str, variant: str) -> dict[str, Any]:
    """Return the version and content digest of each template file of a variant, independent of its location."""
    folder = _folder(name)
    files = [folder / f"{variant}.yaml", *sorted(folder.glob(f"{variant}.*.yaml"))]
    load_prompt(name, variant, "")  # report a wrong file early
    contents = {path.name: _read(path) for path in files}
    return {
        file: {"version": content["version"], "sha256": hashlib.sha256(canonical_json(content)).hexdigest()}
        for file, content in sorted(contents.items())
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
            raise SettingsError(f"{path} has more than {LARGEST} bytes: not a template")
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


def _fill(text: str, label: str, **values: str) -> str:
    try:
        return Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${name}" for name in values)
        raise SettingsError(
            f"template {label}: {error} is no placeholder; known here: {known} (a dollar sign is written $$)"
        ) from error
