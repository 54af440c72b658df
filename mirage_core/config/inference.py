"""How to use a trained model: the prompt, latent settings and variant that its mirage.json records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from mirage_core.config.model import LatentSettings, PromptSettings
from mirage_core.config.section import identity
from mirage_core.errors import SettingsError
from mirage_core.types import Variant

if TYPE_CHECKING:
    from mirage_core.config import Settings


_VARIANT: TypeAdapter[Variant] = TypeAdapter(Variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """The prompt, latent settings and variant that a model is trained with, and must be used with."""

    prompt: PromptSettings
    latent: LatentSettings
    variant: Variant

    @classmethod
    def of(cls, settings: Settings) -> InferenceSettings:
        """Return those of a recipe."""
        return cls(prompt=settings.prompt, latent=settings.latent, variant=settings.teacher.variant)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], settings: Settings) -> InferenceSettings:
        """Return those that mirage.json records; the recipe's if it records none (a model of another project).

        Raises:
            SettingsError: mirage.json holds settings this version does not know.
        """
        recipe = cls.of(settings)
        try:
            return cls(
                prompt=PromptSettings.model_validate(metadata["prompt"]) if "prompt" in metadata else recipe.prompt,
                latent=LatentSettings.model_validate(metadata["latent"]) if "latent" in metadata else recipe.latent,
                variant=_VARIANT.validate_python(metadata.get("variant", recipe.variant)),
            )
        except ValidationError as error:
            raise SettingsError(
                "mirage.json of the model holds prompt, latent or variant settings this version does not know: "
                f"{error}; train it again, or use the version that made it"
            ) from error

    def as_metadata(self, *, latents: bool = True) -> dict[str, Any]:
        """The JSON form for mirage.json and fingerprints; ``latents`` False: without the latent section."""
        latent = {"latent": identity(self.latent)} if latents else {}
        return {"prompt": identity(self.prompt), **latent, "variant": self.variant}
