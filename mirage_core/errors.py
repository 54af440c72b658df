"""The exceptions of the project, and whether another attempt can help."""

from __future__ import annotations


class MirageError(Exception):
    """Base of every error this project raises on purpose.

    Messages name what was got, what was expected, and the way out. ``transient``: another attempt with the same input
    may succeed.
    """

    transient: bool = False


class InputError(MirageError):
    """The caller's input is wrong; the same input will fail again."""


class SettingsError(InputError):
    """A recipe, a setting or a combination of settings is not valid."""


class DataError(InputError):
    """A row, an image or a file of a data set is not valid."""


class ArtifactError(MirageError):
    """An artifact in the store cannot be used.

    ``lost`` names the inputs that a stage could not read; once they are made again, the stage can run.
    """

    lost: tuple[str, ...] = ()


class ArtifactMissing(ArtifactError):
    """An artifact is not in the store, or was never completed."""


class ArtifactDamaged(ArtifactError):
    """The bytes of an artifact differ from its manifest."""


class StoreUnavailable(ArtifactError):
    """The store did not answer, or has no space left."""

    transient = True


class TrainingError(MirageError):
    """Training cannot continue: a loss that is not finite, a broken configuration."""


class TrainingProcessDied(TrainingError):
    """A training process ended without finishing its work; it resumes from its checkpoint."""

    transient = True


class TrainingInterrupted(TrainingError):
    """Training got SIGTERM and saved a checkpoint; it resumes from there."""

    transient = True


class OutOfMemory(TrainingError):
    """A device has too little memory for a batch; smaller batches may fit."""


class JobCancelled(TrainingError):
    """The processes of a job were ended by a cancellation."""


class StageTimeout(MirageError):
    """A stage took longer than its settings allow."""


class TeacherError(MirageError):
    """The teacher could not write an acceptable chain."""


class EndpointError(MirageError):
    """A model's endpoint refuses what it was sent, or a recording has no answer to it."""


class EndpointUnavailable(EndpointError):
    """A model's endpoint gave no answer, or asks for a pause; all answers so far are saved."""

    transient = True


class HubError(MirageError):
    """A model hub rejected an upload, or could not be reached."""


class StudyIncomplete(MirageError):
    """Cells of a study failed; the message names them. The others are done and stored."""


class AnswersDiffer(MirageError):
    """A served model does not give the answers of its stored evaluation; the message names the problems."""


class SignificantDrop(MirageError):
    """A new model solves significantly fewer problems than the previous one; the message has the numbers."""
