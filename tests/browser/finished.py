"""What the run that most of these tests look at was told to do: train and judge all there is."""

from mirage_core.methods import METHODS as KNOWN_METHODS
from mirage_core.pipeline.registry import STAGES

SEED = 103
METHODS: tuple[str, ...] = tuple(KNOWN_METHODS)
TRAINED = tuple(name for name, stage in STAGES.items() if stage.kind == "model")
SECTIONS = (
    "visual_tokens", "film", "pooler", "pooled", "lvr", "coconut", "codi", "monet_warmup", "monet_targets", "monet"
)  # fmt: skip
# What micro does not train of its own accord: codes, a film, and the latent methods of others.
ALSO_TRAINED = (
    "auxiliary_images.film=forward",
    *(f"{section}.{name}" for section in SECTIONS for name in ("steps=20", "batch_size=8")),
)
OVERRIDES = (f"seed={SEED}", f"evaluation.methods=[{','.join(METHODS)}]", *ALSO_TRAINED)
