"""What the run that most of these tests look at was told to do: train and judge all there is."""

from typing import get_args

from mirage_core.config import Method
from mirage_core.pipeline.registry import STAGES

SEED = 103
METHODS: tuple[str, ...] = get_args(Method)
TRAINED = tuple(name for name, stage in STAGES.items() if stage.kind == "model")
OVERRIDES = (f"seed={SEED}", f"evaluation.methods=[{','.join(METHODS)}]")
