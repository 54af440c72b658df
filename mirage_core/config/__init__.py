"""Settings: one YAML for each recipe, validated by frozen pydantic models that refuse unknown keys.

The resolved settings are saved with every run. ``runtime`` changes no result beyond rounding and is not part of any
fingerprint; everything else is part of the fingerprint of the stages that read it.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from pydantic import Field, model_validator

from mirage_core.config.analysis import AnalysisSettings, Measure
from mirage_core.config.auxiliary_images import AuxiliaryImageSettings, SceneLoraSettings, SceneSettings
from mirage_core.config.evaluation import EvaluationSettings, ReportSettings
from mirage_core.config.grpo import GRPOSettings
from mirage_core.config.inference import InferenceSettings
from mirage_core.config.latent_methods import (
    CoconutSettings,
    CodiSettings,
    LvrSettings,
    MonetTargetSettings,
    MonetTrainSettings,
    MonetWarmupSettings,
)
from mirage_core.config.model import (
    ArchitectureSettings,
    Bottleneck,
    FeedNorm,
    LatentInput,
    LatentSettings,
    LoRASettings,
    ModelSettings,
    PromptSettings,
    SpanEnd,
    WarmupSettings,
)
from mirage_core.config.problems import (
    PUBLIC_SECTIONS,
    BenchmarkData,
    CoMTData,
    JigsawData,
    OwnData,
    ProblemSettings,
    PublicData,
    PuzzleData,
    ReasoningData,
    SATData,
    TaskData,
    VSPFolderData,
)
from mirage_core.config.runtime import RuntimeSettings, TeacherRuntime, plain_url
from mirage_core.config.section import (
    Level,
    Method,
    OptimizerName,
    Positive,
    Probability,
    Section,
    StageName,
    as_recipe,
    identity,
)
from mirage_core.config.teacher import CaptionSettings, TeacherSettings
from mirage_core.config.training import (
    FilmTrainSettings,
    GroundingSettings,
    PooledTrainSettings,
    PoolerSettings,
    ReadoutKind,
    RelaxationSettings,
    StepDecoderSettings,
    StepwiseSettings,
    TextTrainSettings,
    TrainSettings,
    ValidationSettings,
    VisualTokenSettings,
)
from mirage_core.errors import SettingsError
from mirage_core.methods import TRAIN_STAGES, get_method, programs
from mirage_core.programs import Program

SectionKind = TypeVar("SectionKind", bound=Section)

__all__ = [
    "PUBLIC_SECTIONS",
    "AnalysisSettings",
    "ArchitectureSettings",
    "AuxiliaryImageSettings",
    "BenchmarkData",
    "Bottleneck",
    "CaptionSettings",
    "CoMTData",
    "CoconutSettings",
    "CodiSettings",
    "EvaluationSettings",
    "FeedNorm",
    "FilmTrainSettings",
    "GRPOSettings",
    "GroundingSettings",
    "InferenceSettings",
    "JigsawData",
    "LatentInput",
    "LatentSettings",
    "Level",
    "LoRASettings",
    "LvrSettings",
    "Measure",
    "Method",
    "ModelSettings",
    "MonetTargetSettings",
    "MonetTrainSettings",
    "MonetWarmupSettings",
    "OptimizerName",
    "OwnData",
    "PooledTrainSettings",
    "PoolerSettings",
    "Positive",
    "Probability",
    "ProblemSettings",
    "PromptSettings",
    "PublicData",
    "PuzzleData",
    "ReadoutKind",
    "ReasoningData",
    "RelaxationSettings",
    "ReportSettings",
    "RuntimeSettings",
    "SATData",
    "SceneLoraSettings",
    "SceneSettings",
    "Section",
    "Settings",
    "SpanEnd",
    "StageName",
    "StepDecoderSettings",
    "StepwiseSettings",
    "TaskData",
    "TeacherRuntime",
    "TeacherSettings",
    "TextTrainSettings",
    "TrainSettings",
    "VSPFolderData",
    "ValidationSettings",
    "VisualTokenSettings",
    "WarmupSettings",
    "as_recipe",
    "identity",
    "plain_url",
]


class Settings(Section):
    """All settings of a recipe."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            "visual_tokens", "film", "pooler", "pooled", "lvr", "coconut", "codi", "monet_warmup", "monet_targets",
            "monet",
        }
    )  # fmt: skip

    recipe: str = Field(description="The recipe's name.")
    description: str = Field("", description="Its purpose.")
    seed: int = Field(42, ge=0)
    problems: ProblemSettings = ProblemSettings()
    auxiliary_images: AuxiliaryImageSettings = AuxiliaryImageSettings()
    teacher: TeacherSettings = TeacherSettings()
    captions: CaptionSettings = CaptionSettings()
    prompt: PromptSettings = PromptSettings()
    latent: LatentSettings = LatentSettings()
    model: ModelSettings = ModelSettings()
    direct_sft: TextTrainSettings = TextTrainSettings()
    capimagine: TrainSettings = TrainSettings()
    visual_tokens: VisualTokenSettings = VisualTokenSettings()
    grounding: GroundingSettings = GroundingSettings()
    relaxation: RelaxationSettings = RelaxationSettings()
    film: FilmTrainSettings = FilmTrainSettings()
    pooler: PoolerSettings = PoolerSettings()
    pooled: PooledTrainSettings = PooledTrainSettings()
    lvr: LvrSettings = LvrSettings()
    coconut: CoconutSettings = CoconutSettings()
    codi: CodiSettings = CodiSettings()
    monet_warmup: MonetWarmupSettings = MonetWarmupSettings()
    monet_targets: MonetTargetSettings = MonetTargetSettings()
    monet: MonetTrainSettings = MonetTrainSettings()
    grpo: GRPOSettings = GRPOSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    report: ReportSettings = ReportSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @model_validator(mode="after")
    def _has_an_endpoint(self) -> Settings:
        """Fail before hours of work, not when the chains are requested."""
        if self.teacher.kind == "endpoint" and self.runtime.teacher.base_url is None:
            raise ValueError(
                "teacher.kind endpoint needs runtime.teacher.base_url, for example http://127.0.0.1:8000/v1"
            )
        return self

    @model_validator(mode="after")
    def _has_an_engine(self) -> Settings:
        """Fail before the stages that come first."""
        if self.grpo.rollouts == "served" and self.runtime.rollouts_url is None:
            raise ValueError("grpo.rollouts served needs runtime.rollouts_url, for example http://127.0.0.1:8766")
        if self.grpo.rollouts == "served" and self.runtime.hosts:
            raise ValueError("grpo.rollouts served is for one machine, and runtime.hosts names others: leave them out")
        return self

    @model_validator(mode="after")
    def _has_whole_matrices(self) -> Settings:
        """Muon steps on whole matrices: fail before the stages that come first."""
        runtime = self.runtime
        if runtime.engine == "plain" or runtime.zero_stage == 0:
            return self
        for name, optimizer in self._optimizers().items():
            if optimizer == "muon":
                raise ValueError(
                    f"{name}.optimizer is muon, which steps on whole matrices, and runtime.zero_stage "
                    f"{runtime.zero_stage} shards them: set runtime.zero_stage to 0, or runtime.engine to plain"
                )
        return self

    @model_validator(mode="after")
    def _has_a_film(self) -> Settings:
        """Fail before hours of work, not when the first stage looks for frames."""
        if self.auxiliary_images.film != "off":
            return self
        if self.latent.length == "frames":
            raise ValueError("latent.length frames needs a film: set auxiliary_images.film to forward")
        for name, section in self._trained_sections().items():
            if section.film_steps is not None:
                raise ValueError(f"{name}.stepwise needs a film: set auxiliary_images.film to forward")
        return self

    @model_validator(mode="after")
    def _answers_as_the_last_stage(self) -> Settings:
        """A curriculum ends with the latents that answers have."""
        for section in self._trained_sections().values():
            fault = section.latents_fault(self.latent)
            if fault is not None:
                raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _has_latents_to_sample(self) -> Settings:
        """A Gaussian is around the model's own hidden states."""
        if self.grpo.latent_sigma and self.latent.input != "hidden_state":
            raise ValueError(
                f"grpo.latent_sigma is {self.grpo.latent_sigma:g}, but latent.input is {self.latent.input}: there is "
                "no latent of the model's own to sample; set latent_sigma to 0"
            )
        if self.grpo.latent_term != "none" and self.latent.input != "hidden_state":
            raise ValueError(
                f"grpo.latent_term is {self.grpo.latent_term}, but latent.input is {self.latent.input}: there is no "
                "latent of the model's own to judge; set latent_term to none"
            )
        return self

    @model_validator(mode="after")
    def _has_plain_latents_for_a_teacher(self) -> Settings:
        """A teacher's states are of hidden states that are fed as they are, in rows with a sight of their own."""
        stages = {stage for method in self.evaluation.methods for stage in get_method(method).all_stages}
        latent = self.latent
        if any(TRAIN_STAGES[stage].program.teacher != "none" for stage in stages) and (
            latent.input != "hidden_state" or latent.bottleneck != "none" or latent.feed_norm != "own"
        ):
            raise ValueError(
                f"latent.input is {latent.input}, bottleneck {latent.bottleneck}, feed_norm {latent.feed_norm}: Monet "
                "needs hidden_state, none and own"
            )
        return self

    @property
    def keeps_frames(self) -> bool:
        """Whether all images of an auxiliary image are kept: the frames of films, or of chains with several images."""
        return self.auxiliary_images.film != "off" or self.problems.several_images

    def _trained_sections(self) -> dict[str, TrainSettings]:
        """Return the sections of the supervised stages that train the methods of this recipe, by name."""
        trained = self._trained_programs()
        return {one.section: self.section(one.name, TrainSettings) for one in trained if not one.reinforces}

    def _optimizers(self) -> dict[str, OptimizerName]:
        """Return the optimizers of all stages that train the methods of this recipe, by section."""
        chosen = {one.section: self.training(one.name).optimizer for one in self._trained_programs()}
        return {"model.warmup": self.model.warmup.optimizer, **chosen}

    def _trained_programs(self) -> list[Program]:
        """Return the programs of all stages that train the methods of this recipe."""
        stages = {stage for method in self.evaluation.methods for stage in get_method(method).stages}
        return [TRAIN_STAGES[stage].program for stage in stages]

    def training(self, program: str) -> TrainSettings | GRPOSettings:
        """Return the section that a training program reads."""
        section: TrainSettings | GRPOSettings = getattr(self, programs()[program].section)
        return section

    def section(self, program: str, kind: type[SectionKind]) -> SectionKind:
        """Return the section that a training program reads, which must be of a kind. SettingsError if it is not."""
        section = self.training(program)
        if not isinstance(section, kind):
            raise SettingsError(
                f"the program {program} reads {programs()[program].section}, which is {type(section).__name__}: what "
                f"its record says of it needs {kind.__name__}; give it another section"
            )
        return section
