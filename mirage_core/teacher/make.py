"""The teacher that the settings name."""

from __future__ import annotations

from mirage_core.config import TeacherSettings
from mirage_core.errors import SettingsError
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import Teacher


def make_teacher(settings: TeacherSettings) -> Teacher:
    """Build the teacher of ``settings.kind``."""
    if settings.kind == "oracle":
        return OracleTeacher()
    raise SettingsError(f"unknown teacher {settings.kind!r}; known: oracle")
