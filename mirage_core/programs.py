"""Every training program: what the processes of a training stage run, one record each.

A record answers the five questions of a latent method (docs/latent-methods.md); nothing asks for a program by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What the processes of a training stage run, and what mirage.json calls it.

    ``section``: the settings it reads. ``loss``: a name in ``LOSSES`` (training/sft/losses.py), a function like those,
    or "policy" (GRPO). ``latents``: what is fed at the latent positions: nothing, the compressed auxiliary images
    ("teacher_forced"), or the model's own hidden states ("rolled_out"). ``targets``: what teacher-forced latents are:
    compressed auxiliary images, or the image's own features in the regions of the problem. ``title``: its name on a
    model card.
    ``pooler``: "trained": the model is frozen, and a pooler of the auxiliary images, whose vectors are fed, is trained
    beside it; "targets": latents are held to the vectors of the pooler in its input model's folder.
    ``observes``: the caption stays in the chain, after the span, and its tokens count as observed (Monet).
    ``shows_auxiliary``: the auxiliary image stands in the chain, before the span if there is one. ``teacher``: what the
    states of a teacher, its input ``states``, were taken at: observed tokens, or latents.
    ``words``: what becomes of a chain's caption where latents stand for it. "replaced": one step after another, by a
    curriculum (Coconut); "distilled": it is a second task beside the latents (CODI); "kept": they do not.
    """

    name: str
    title: str
    section: str
    loss: str | Callable[..., Any]
    latents: Literal["none", "teacher_forced", "rolled_out"] = "none"
    targets: Literal["auxiliary", "regions"] = "auxiliary"
    pooler: Literal["none", "trained", "targets"] = "none"
    observes: bool = False
    shows_auxiliary: bool = False
    teacher: Literal["none", "observations", "latents"] = "none"
    words: Literal["kept", "replaced", "distilled"] = "kept"

    @property
    def reads_auxiliary(self) -> bool:
        """Whether its loss always needs the auxiliary images: to feed them, or to pool them."""
        fed = self.latents == "teacher_forced" and self.targets == "auxiliary"
        return fed or self.pooler != "none"

    @property
    def has_latents(self) -> bool:
        """Whether it trains with latents."""
        return self.latents != "none"

    @property
    def reinforces(self) -> bool:
        """Whether it learns from rewards of sampled answers (GRPO)."""
        return self.loss == "policy"

    @property
    def learns_span_ends(self) -> bool:
        """Whether it learns where spans of different lengths end: the model's own, but for a teacher's."""
        return self.latents == "rolled_out" and not self.observes

    @property
    def shows_one_image(self) -> bool:
        """Whether its latents are an auxiliary image's, and can be compared with it."""
        return self.has_latents and self.targets == "auxiliary" and self.words == "kept" and not self.observes

    @property
    def data(self) -> Literal["examples", "problems"]:
        """The input that it trains on, beside its model."""
        return "problems" if self.reinforces else "examples"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of its jobs."""
        return ("model", self.data, *(("states",) if self.teacher != "none" else ()))


TEXT = Program(name="text", title="supervised fine-tuning on text", section="direct_sft", loss="text")
CAPIMAGINE = Program(name="capimagine", title="imagination as text", section="capimagine", loss="text")
VISUAL_TOKENS = Program(name="visual-tokens", title="explicit visual tokens", section="visual_tokens", loss="text")
GROUNDING = Program(
    name="grounding", title="stage 1, grounding", section="grounding", loss="grounding", latents="teacher_forced"
)
RELAXATION = Program(
    name="relaxation", title="stage 2, relaxation", section="relaxation", loss="relaxation", latents="rolled_out"
)
FILM = Program(
    name="film", title="relaxation with stepwise grounding", section="film", loss="relaxation", latents="rolled_out"
)
POOLER = Program(
    name="pooler",
    title="pooler of the auxiliary image",
    section="pooler",
    loss="pooler",
    latents="teacher_forced",
    pooler="trained",
)
POOLED = Program(
    name="pooled",
    title="relaxation with pooled targets",
    section="pooled",
    loss="relaxation",
    latents="rolled_out",
    pooler="targets",
)
LVR = Program(
    name="lvr",
    title="latent visual reasoning (LVR)",
    section="lvr",
    loss="region",
    latents="teacher_forced",
    targets="regions",
)
COCONUT = Program(
    name="coconut",
    title="Coconut's curriculum",
    section="coconut",
    loss="latent_thoughts",
    latents="rolled_out",
    words="replaced",
)
CODI = Program(
    name="codi",
    title="CODI, self-distillation",
    section="codi",
    loss="latent_thoughts",
    latents="rolled_out",
    words="distilled",
)
MONET_WARMUP = Program(
    name="monet-warmup",
    title="Monet's warm-up",
    section="monet_warmup",
    loss="monet_warmup",
    observes=True,
    shows_auxiliary=True,
)
MONET_TARGETS = Program(
    name="monet-targets",
    title="Monet's target latents",
    section="monet_targets",
    loss="monet_targets",
    latents="rolled_out",
    observes=True,
    shows_auxiliary=True,
    teacher="observations",
)
MONET = Program(
    name="monet",
    title="Monet, latents without the auxiliary image",
    section="monet",
    loss="monet",
    latents="rolled_out",
    observes=True,
    teacher="latents",
)
GRPO = Program(name="grpo", title="stage 3, GRPO", section="grpo", loss="policy", latents="rolled_out")
