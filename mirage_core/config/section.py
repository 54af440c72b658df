"""The base class of all groups of settings, their JSON forms, and the types of single settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from mirage_core import methods
from mirage_core.config.renamed import to_current, to_stored

Level = Annotated[int, Field(ge=3, le=16)]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
OptimizerName = Literal["adamw", "adamw_8bit", "muon"]
OPTIMIZERS = (
    "adamw_8bit: moments in 8 bits (bitsandbytes, on a GPU). muon: matrices of layers by Muon, all else by AdamW; not "
    "under ZeRO 1 to 3."
)


class OneOf:
    """An annotation for a name in a registry: others are refused with the nearest known one; a form lists all."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": [*self._names()]}

    def _known(self, name: str) -> str:
        known = [*self._names()]
        if name in known:
            return name
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PydanticCustomError("unknown_name", f"Input should be one of {', '.join(map(repr, known))}{hint}")


StageName = Annotated[str, OneOf(methods.stage_names)]
Method = Annotated[str, OneOf(lambda: methods.METHODS)]
_CURRENT = {"spelling": "current"}


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys.

    It reads the old and the new spelling of renamed settings, and dumps the old one, which fingerprints are made of.
    Settings named in ``LATER`` came after artifacts had been stored: the stored form leaves them out while they have
    their default, so that older fingerprints stay as they are.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    # An error's text goes into logs: what was typed (a URL with a password in it) does not.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return to_current(data, cls.model_fields) if isinstance(data, Mapping) else data

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if info.context == _CURRENT:
            return data
        return to_stored({name: value for name, value in data.items() if not self._is_later_default(name)})

    def _is_later_default(self, name: str) -> bool:
        return name in self.LATER and getattr(self, name) == type(self).model_fields[name].default


def identity(section: BaseModel) -> dict[str, Any]:
    """Return the JSON form of a section for fingerprints and stored files: renamed settings by their old names."""
    return section.model_dump(mode="json")


def as_recipe(section: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    """Return the JSON form of a section as in a recipe: renamed settings by their current names."""
    return section.model_dump(mode="json", context=_CURRENT, exclude=exclude)


Scalar = bool | int | float | str
