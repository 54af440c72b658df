"""What a supervised program trains or reads beside the model: poolers, readouts, curricula, teachers' rows, codes."""

from __future__ import annotations

from collections.abc import Sequence

from mirage_core.config import (
    CoconutSettings,
    CodiSettings,
    LvrSettings,
    RelaxationSettings,
    Settings,
    VisualTokenSettings,
)
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.latent.encoder import Encoder
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel
from mirage_core.model.readout import LatentReadout, new_readout
from mirage_core.training.loop import step_seed
from mirage_core.training.sft.coconut import Curriculum, StageSchedule
from mirage_core.training.sft.codi import TeacherRows
from mirage_core.training.sft.objective import section_of
from mirage_core.training.sft.pooler import Pooler, load_pooler, new_pooler
from mirage_core.training.sft.step_decoder import StepDecoding, make_step_decoding
from mirage_core.training.visual_tokens.quantise import count_codes
from mirage_core.types import TrainingExample

_POOLER_SEED, _READOUT_SEED, _STEP_DECODER_SEED = 29, 31, 37


def visual_tokens_of(job: Job) -> int:
    """Return how many codes the job's model writes as tokens; 0 for most programs.

    DataError and SettingsError as for ``count_codes``.
    """
    section = job.settings.training(job.program)
    return count_codes(job.input("examples"), section) if isinstance(section, VisualTokenSettings) else 0


def check_codes(job: Job) -> None:
    """SettingsError where latents are to be codes, and the program trains no head that chooses them."""
    section = section_of(job.settings, job.program)
    if job.settings.latent.input != "code" or not programs()[job.program].has_latents:
        return
    stepwise = section.stepwise if isinstance(section, RelaxationSettings) else None
    if stepwise is None or stepwise.what_head != "codebook":
        raise SettingsError(
            f"latent.input is code, and {job.program} trains no head over a codebook: use the method film with "
            "film.stepwise.what codebook and a weight_what above 0, or set latent.input to hidden_state"
        )


def pooler_of(job: Job, model: LoadedModel) -> Pooler | None:
    """Return the pooler that the job's program trains, a new one, or takes its targets from; None for most programs.

    SettingsError for spans of different lengths, and where the input model's folder has no pooler.
    """
    latent, use = job.settings.latent, programs()[job.program].pooler
    if use == "none":
        return None
    if latent.length != "fixed":
        raise SettingsError(
            f"latent.length is {latent.length}, but a pooler makes as many vectors for each image: set it to fixed"
        )
    if use == "trained":
        return new_pooler(model.backbone, latent.num_latents, step_seed(job.seed, 0, _POOLER_SEED))
    return load_pooler(job.input("model"), model.backbone, latent.num_latents)


def readout_of(job: Job, model: LoadedModel) -> LatentReadout | None:
    """Return a new readout, where the job's program trains a head or a stop vector; None for most programs.

    SettingsError for a switch beside a head: decoding reads the end of a span off the state itself.
    """
    section = section_of(job.settings, job.program)
    if not isinstance(section, LvrSettings) or (section.head == "none" and section.stop != "vector"):
        return None
    if section.stop == "switch":
        raise SettingsError(
            f"lvr.stop is switch and lvr.head {section.head}: the switch would be learned on what the head gives, and "
            "answers read it off the hidden state; set lvr.head to none, or lvr.stop to text or vector"
        )
    config = model.backbone.model.config.get_text_config()
    return new_readout(
        model.backbone.hidden_size,
        int(config.intermediate_size),
        section.head,
        stops=section.stop == "vector",
        seed=step_seed(job.seed, 0, _READOUT_SEED),
        dtype=model.backbone.dtype,
    ).to(model.backbone.device)


def curriculum_of(
    job: Job, model: LoadedModel, examples: Sequence[TrainingExample], steps: int | None = None
) -> Curriculum | None:
    """Return the curriculum of the job's program over ``steps``; None for most programs.

    ``steps`` None: every row is of the last stage. SettingsError where answers have other latents than that.
    """
    section, settings = section_of(job.settings, job.program), job.settings
    if not isinstance(section, CoconutSettings):
        return None
    fault = section.latents_fault(settings.latent)
    if fault is not None:
        raise SettingsError(fault)
    return Curriculum(
        settings=section,
        latent=settings.latent,
        of=settings.captions.of,
        examples=examples,
        encoder=plain_encoder(settings, model),
        seed=job.seed,
        schedule=None if steps is None else StageSchedule(section, steps),
    )


def step_decoding_of(job: Job, model: LoadedModel, curriculum: Curriculum) -> StepDecoding | None:
    """Return a new step decoder of the steps of a curriculum's examples; None where the settings have none."""
    settings = curriculum.settings.step_decoder
    if settings is None:
        return None
    seed = step_seed(job.seed, 0, _STEP_DECODER_SEED)
    tokenizer = model.processor.tokenizer
    return make_step_decoding(model.backbone, settings, tokenizer, curriculum.all_explained(), seed)


def teacher_rows_of(job: Job, model: LoadedModel, examples: Sequence[TrainingExample]) -> TeacherRows | None:
    """Return the rows of the other task of self-distillation; None for most programs."""
    section = section_of(job.settings, job.program)
    if not isinstance(section, CodiSettings):
        return None
    return TeacherRows(section, examples, plain_encoder(job.settings, model))


def plain_encoder(settings: Settings, model: LoadedModel) -> Encoder:
    """Return the encoder of a recipe's examples for a model."""
    return Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
