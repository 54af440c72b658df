"""The error tree: what can go wrong, and whether trying again can help."""

from __future__ import annotations


class MirageError(Exception):
    """Base of every error this project raises on purpose.

    Messages say what was got, what was expected, and the way out. ``transient`` tells the
    orchestration whether another attempt with the same input may succeed.
    """

    transient: bool = False


class InputError(MirageError):
    """The caller's input is wrong; the same input will fail again."""


class SettingsError(InputError):
    """A recipe, a setting or a combination of settings is not valid."""


class DataError(InputError):
    """A row, a picture or a file of a data set is not valid."""


class ArtifactError(MirageError):
    """Something is wrong with an artifact in the store.

    ``lost`` names the artifacts that a stage needed and could not read: made again, they let it run.
    """

    lost: tuple[str, ...] = ()


class ArtifactMissing(ArtifactError):
    """An artifact is not in the store, or was never completed."""


class ArtifactDamaged(ArtifactError):
    """The bytes of an artifact differ from its manifest."""


class StoreUnavailable(ArtifactError):
    """The store did not answer, or has no room left."""

    transient = True


class TrainingError(MirageError):
    """Training cannot go on: a loss that is not finite, a broken configuration."""


class TrainingProcessDied(TrainingError):
    """A training process ended without finishing its work; it resumes from its checkpoint."""

    transient = True


class TrainingInterrupted(TrainingError):
    """Training was asked to end (SIGTERM) and has saved where it was; it resumes from there."""

    transient = True


class OutOfMemory(TrainingError):
    """A device has too little memory for what it was given; smaller portions may fit."""


class JobCancelled(TrainingError):
    """The processes of a job were ended because somebody asked for it."""


class StageTimeout(MirageError):
    """A stage took longer than its settings allow."""


class TeacherError(MirageError):
    """The teacher could not write an acceptable chain, or its endpoint refuses what it was sent."""


class TeacherUnavailable(TeacherError):
    """The teacher's endpoint gave no answer, or asks for a pause; what was answered so far is kept."""

    transient = True


class HubError(MirageError):
    """A hub of models refused an upload, or could not be reached."""


class StudyIncomplete(MirageError):
    """Cells of a study failed; the message names them. The others are done, and kept."""


class SignificantDrop(MirageError):
    """A published model answers significantly fewer problems than the one before; the message holds the figures."""
