"""What a supervised program trains or reads beside the model: poolers, readouts, curricula, teachers' rows, codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mirage_core.config import CoconutSettings, CodiSettings, TrainSettings, VisualTokenSettings
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel
from mirage_core.model.readout import LatentReadout, new_readout, saved_readout
from mirage_core.model.weights import SavedModule
from mirage_core.programs import Program
from mirage_core.training.data.visual_tokens.quantise import count_codes
from mirage_core.training.loop import step_seed
from mirage_core.training.monet.teacher_states import TeacherStates
from mirage_core.training.sft.coconut import Curriculum, StageSchedule
from mirage_core.training.sft.codi import TeacherRows
from mirage_core.training.sft.examples import SupervisedData, plain_encoder
from mirage_core.training.sft.latent_noise import LatentRegularizer
from mirage_core.training.sft.pooler import Pooler, load_pooler, new_pooler, saved_pooler
from mirage_core.training.sft.step_decoder import StepDecoding, make_step_decoding
from mirage_core.training.stepwise.setup import FilmData, Stepwise, make_stepwise
from mirage_core.types import TrainingExample

_POOLER_SEED, _READOUT_SEED, _STEP_DECODER_SEED = 29, 31, 37


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a program has beside its model and examples; most have nothing of it.

    ``regularizer``: of stage 2 while it trains; None: every row is under the bottleneck, and its latents get no noise.
    ``stepwise``: stepwise grounding. ``pooler``: the pooler that is trained, or whose vectors are the targets.
    ``readout``: what reads the latents off hidden states, trained too. ``curriculum``: lays out the rows of a step by
    its stage. ``step_decoding``: a decoder of its latents. ``teacher_rows``: those of self-distillation. ``teacher``:
    the states that another model had.
    """

    regularizer: LatentRegularizer | None = None
    stepwise: Stepwise | None = None
    pooler: Pooler | None = None
    readout: LatentReadout | None = None
    curriculum: Curriculum | None = None
    step_decoding: StepDecoding | None = None
    teacher_rows: TeacherRows | None = None
    teacher: TeacherStates | None = None

    @property
    def steps(self) -> Curriculum | TeacherRows | None:
        """What knows the reasoning steps that latents stand for."""
        return self.curriculum or self.teacher_rows

    def modules(self, program: Program) -> Mapping[str, nn.Module]:
        """Return what is trained beside the backbone: heads, a pooler, a readout, a step decoder."""
        modules: dict[str, nn.Module] = {} if self.stepwise is None else {"step_heads": self.stepwise.heads}
        if self.pooler is not None and program.pooler == "trained":
            modules["pooler"] = self.pooler
        if self.readout is not None:
            modules["latent_readout"] = self.readout
        if self.step_decoding is not None:
            modules["step_decoder"] = self.step_decoding.decoder
        return modules

    def saved(self, program: Program) -> tuple[SavedModule, ...]:
        """Return what is saved beside the model; a step decoder is not."""
        saved = () if self.stepwise is None else self.stepwise.saved
        if self.pooler is not None and program.pooler == "trained":
            saved = (*saved, saved_pooler(self.pooler))
        return saved if self.readout is None else (*saved, saved_readout(self.readout))


def beside_of(job: Job, model: LoadedModel, data: SupervisedData, steps: int) -> Beside:
    """Return what the job's program has beside its model and training examples, over so many steps.

    SettingsError and DataError as for each of its parts.
    """
    curriculum, rows = curriculum_of(job, model, data.examples, steps), teacher_rows_of(job, model, data.examples)
    return Beside(
        regularizer=_regularizer(job, steps),
        stepwise=stepwise_grounding(job, model, data),
        pooler=pooler_of(job, model),
        readout=readout_of(job, model),
        curriculum=curriculum,
        step_decoding=step_decoding_of(job, model, curriculum or rows),
        teacher_rows=rows,
        teacher=TeacherStates(job.input("states")) if programs()[job.program].teacher != "none" else None,
    )


def visual_tokens_of(job: Job) -> int:
    """Return how many codes the job's model writes as tokens; 0 for most programs.

    DataError and SettingsError as for ``count_codes``.
    """
    if programs()[job.program].reinforces or not job.settings.section(job.program, TrainSettings).new_tokens:
        return 0
    return count_codes(job.input("examples"), job.settings.section(job.program, VisualTokenSettings))


def check_codes(job: Job) -> None:
    """SettingsError where latents are to be codes, and the program trains no head that chooses them."""
    if job.settings.latent.input != "code" or not programs()[job.program].has_latents:
        return
    stepwise = job.settings.section(job.program, TrainSettings).film_steps
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
    """Return a new readout, where the job's program trains a head or a stop vector; None for most programs."""
    kind = job.settings.section(job.program, TrainSettings).readout
    if kind is None:
        return None
    config = model.backbone.model.config.get_text_config()
    return new_readout(
        model.backbone.hidden_size,
        kind.width or int(config.intermediate_size),
        kind.head,
        stops=kind.stops,
        seed=step_seed(job.seed, 0, _READOUT_SEED),
        dtype=model.backbone.dtype,
    ).to(model.backbone.device)


def stepwise_grounding(job: Job, model: LoadedModel, data: SupervisedData) -> Stepwise | None:
    """Return the stepwise grounding of the job's program; None without it.

    SettingsError where no training example has what its heads need.
    """
    settings = job.settings.section(job.program, TrainSettings).film_steps
    if settings is None:
        return None
    films = FilmData(data.examples, "train", data.used, job.input("examples"), job.scratch / "films")
    latents = programs()[job.program].has_latents
    return make_stepwise(settings, job.settings, model, films, job.seed, latents=latents)


def _regularizer(job: Job, steps: int) -> LatentRegularizer | None:
    """Return the regularizer of stage 2; None elsewhere. SettingsError for noise on latents that do not exist."""
    relaxation = job.settings.section(job.program, TrainSettings).regularization
    if relaxation is None:
        return None
    if not job.settings.latent.rolls_out and (relaxation.latent_noise or relaxation.latent_dropout):
        raise SettingsError(
            f"relaxation.latent_noise is {relaxation.latent_noise} and latent_dropout {relaxation.latent_dropout}, but "
            f"latent.input is {job.settings.latent.input}: there is no latent to add noise to. Set both to 0."
        )
    return LatentRegularizer(relaxation, job.seed, steps)


def curriculum_of(
    job: Job, model: LoadedModel, examples: Sequence[TrainingExample], steps: int | None = None
) -> Curriculum | None:
    """Return the curriculum of the job's program over ``steps``; None for most programs.

    ``steps`` None: every row is of the last stage. SettingsError where answers have other latents than that.
    """
    settings = job.settings
    if programs()[job.program].words != "replaced":
        return None
    section = settings.section(job.program, CoconutSettings)
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


def step_decoding_of(job: Job, model: LoadedModel, steps: Curriculum | TeacherRows | None) -> StepDecoding | None:
    """Return a new decoder of the ``steps`` that latents stand for; None where the settings have none."""
    settings = job.settings.section(job.program, TrainSettings).step_decoding
    if settings is None or steps is None:
        return None
    seed = step_seed(job.seed, 0, _STEP_DECODER_SEED)
    tokenizer = model.processor.tokenizer
    return make_step_decoding(model.backbone, settings, tokenizer, steps.all_explained(), seed)


def teacher_rows_of(job: Job, model: LoadedModel, examples: Sequence[TrainingExample]) -> TeacherRows | None:
    """Return the rows of the other task of self-distillation; None for most programs."""
    if programs()[job.program].words != "distilled":
        return None
    settings = job.settings
    section, encoder = settings.section(job.program, CodiSettings), plain_encoder(settings, model)
    return TeacherRows(section, settings.latent, settings.captions.of, examples, encoder)
