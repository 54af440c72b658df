"""The plug-in for lmms-eval, against the interface of lmms-eval 0.7.3 as its wheel has it (docs/evaluation.md)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import flows.lmms
from mirage_core.config import (
    LatentSettings,
    ModelSettings,
    PromptSettings,
    identity,
)
from mirage_core.errors import DataError, InputError
from mirage_core.model.loading import build_base_model, save_model
from tests.small_sizes import SIZES


class Harness:
    """What lmms_eval.api.model.lmms does for a model, as far as a model sees it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.added: list[tuple[str, Any, str]] = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *entry: self.added.append(entry))
        self.task_dict: dict[str, Any] = {}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any]) -> Any:
        options_of_text = dict(part.split("=", 1) for part in arg_string.split(","))
        return cls(**options_of_text, **{key: value for key, value in additional_config.items() if value is not None})


@dataclass
class ModelManifest:
    model_id: str
    simple_class_path: str


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plug-in's module with lmms-eval's own modules in their published places."""
    places = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Harness}}
    places |= {"lmms_eval.models": {}, "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest}}
    for name, members in places.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "flows.lmms.model", raising=False)
    yield importlib.import_module("flows.lmms.model")
    sys.modules.pop("flows.lmms.model", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    loaded = build_base_model(ModelSettings(architecture=SIZES), 1)
    about = {
        "prompt": identity(PromptSettings(form="short", image_scale=28 / 64)), "latent": identity(LatentSettings()),
        "variant": "direct", "stage": "relaxation",
    }  # fmt: skip
    save_model(folder, loaded.backbone, loaded.processor, about)
    return folder


def requests(model: Any, count: int, visuals: Callable[[Any], Any]) -> list[Any]:
    model.task_dict["colours"] = {"test": [{"at": at} for at in range(count)]}
    return [
        SimpleNamespace(args=(f"Which colour is {at}?", {"until": ["\n\n"]}, visuals, at, "colours", "test"))
        for at in range(count)
    ]


def picture(doc: Any) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), (40 * doc["at"], 90, 200))]


def adapted(adapter: ModuleType, folder: Path, tmp_path: Path, *more: str) -> Any:
    arguments = ",".join([f"pretrained={folder}", f"store={tmp_path / 'store'}", "max_new_tokens=6", *more])
    options = {"batch_size": "2", "max_batch_size": None, "device": "cpu"}
    return adapter.Mirage.create_from_arg_string(arguments, options)


def test_the_entry_point_names_the_class_that_is_there(adapter: ModuleType) -> None:
    manifest = flows.lmms.manifest()

    assert manifest.model_id == "mirage"
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name) is adapter.Mirage
    assert issubclass(adapter.Mirage, Harness) and adapter.Mirage.is_simple


def test_requests_are_answered_in_order_whatever_the_batches_are(
    adapter: ModuleType, folder: Path, tmp_path: Path
) -> None:
    model = adapted(adapter, folder, tmp_path, "answer=full")
    answers = model.generate_until(requests(model, 3, picture))
    model.batch_size = 1
    alone = [model.generate_until([request])[0] for request in requests(model, 3, picture)]

    assert len(answers) == 3 and answers == alone
    assert [entry[2] for entry in model.added] == [*answers, *alone]
    assert model.device.type == "cpu" and model.tokenizer is not None


def test_the_final_answer_is_the_box_or_what_follows_the_thought(
    adapter: ModuleType, folder: Path, tmp_path: Path
) -> None:
    response = adapted(adapter, folder, tmp_path)._response

    assert response("<think>look</think><latents:4>\\boxed{B}", {}) == "B"
    assert response("<think>look</think><latents:4> The red one\n\nBecause", {"until": ["\n\n"]}) == "The red one"
    assert (
        adapted(adapter, folder, tmp_path, "answer=full")._response("<latents:4>\\boxed{B}", {})
        == "<latents:4>\\boxed{B}"
    )


def test_pictures_stand_before_the_words_or_where_they_are_marked(
    adapter: ModuleType, folder: Path, tmp_path: Path
) -> None:
    model = adapted(adapter, folder, tmp_path)
    (request,) = requests(model, 1, lambda doc: [picture(doc), picture(doc)])
    assert model._problem(request.args, 0).question == "<image><image>\nWhich colour is 0?"
    marked = ("First <image>, then <image>?", *request.args[1:])
    assert model._problem(marked, 0).question == "First <image>, then <image>?"
    assert len(model._problem(marked, 0).images) == 2


def test_what_it_cannot_do_is_said(adapter: ModuleType, folder: Path, tmp_path: Path) -> None:
    model = adapted(adapter, folder, tmp_path)

    with pytest.raises(DataError, match="colours, document 0: got str, expected an image"):
        model.generate_until(requests(model, 1, lambda doc: ["film.mp4"]))
    with pytest.raises(InputError, match="take a task with output_type generate_until"):
        model.loglikelihood([1])
    with pytest.raises(InputError, match="single questions"):
        model.generate_until_multi_round([1])
    with pytest.raises(InputError, match=r"model_args \['temprature'\]"):
        adapted(adapter, folder, tmp_path, "temprature=1")
