"""A manifest: the names, sizes and digests of an artifact's files. Its presence means complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactError, InputError
from mirage_core.store.digests import canonical_json, dump_checked, file_sha256, load_checked

MANIFEST = "manifest.json"
FILES = "files-"
_PART = re.compile(r"[A-Za-z0-9_+=@%,()\[\]~ -][A-Za-z0-9._+=@%,()\[\]~ -]*|\.[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: its name relative to the artifact's files folder, size in bytes, sha256."""

    name: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The files of an artifact; ``summary`` and ``about`` are for people and provenance and do not enter the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    kind: str
    fingerprint: str
    digest: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 over names, sizes and digests of the files.")
    files: tuple[FileEntry, ...]
    edition: str = Field(
        "", pattern="^[0-9a-f]{0,8}$", description="Distinguishes its files folder from quarantined ones."
    )
    summary: dict[str, Any] = Field(default_factory=dict)
    about: dict[str, Any] = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The content-addressed folder of the files, beside the manifest."""
        return FILES + self.digest[:12] + (f"-{self.edition}" if self.edition else "")

    def to_bytes(self) -> bytes:
        """The manifest as indented JSON with its own sha256 (``digest`` covers the files only)."""
        return dump_checked(self.model_dump(mode="json"))


def describe_folder(folder: Path) -> tuple[FileEntry, ...]:
    """List every file of a folder by name; ArtifactError for links, unsafe names and an empty folder."""
    entries = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(
                f"{name} in {folder} is a link or a special file; an artifact holds plain files: copy it"
            )
        if path.is_file():
            entries.append(FileEntry(name=safe_name(name), size=path.stat().st_size, sha256=file_sha256(path)))
    if not entries:
        raise ArtifactError(f"{folder} has no file in it: a stage must write its result into its output folder")
    return tuple(sorted(entries, key=lambda entry: entry.name))


def digest_of(files: Sequence[FileEntry]) -> str:
    """The digest of a set of files: sha256 over their names, sizes and sha256, ordered by name."""
    rows = sorted([entry.name, entry.size, entry.sha256] for entry in files)
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest and check its names and its digest; ArtifactDamaged names the fault."""
    try:
        manifest = Manifest.model_validate(load_checked(data))
        for entry in manifest.files:
            safe_name(entry.name)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ArtifactDamaged(
            f"{where} is not a manifest: {'.'.join(map(str, fault['loc']))} {fault['msg']}"
        ) from error
    except InputError as error:
        raise ArtifactDamaged(f"{where} is rejected: {error}") from error
    except ValueError as error:
        raise ArtifactDamaged(f"{where} is not a manifest: {error}") from error
    if len({entry.name for entry in manifest.files}) < len(manifest.files):
        raise ArtifactDamaged(f"{where} names a file twice")
    if digest_of(manifest.files) != manifest.digest:
        raise ArtifactDamaged(f"{where} has a digest that does not match its files")
    return manifest


def safe_name(name: str) -> str:
    """Return the name if it is relative, of plain characters and stays within its folder; InputError otherwise."""
    parts = name.split("/")
    if len(name) > 500 or any(part in ("", ".", "..") or not _PART.fullmatch(part) for part in parts):
        raise InputError(
            f"the name {name!r} is not allowed in a store: expected a relative path of plain names, no '..'"
        )
    return name
