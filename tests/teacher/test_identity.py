"""What of the teacher's settings makes another data set, and what does not; and which settings are refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings, TeacherRuntime, TeacherSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.llm_client.response_cache import Answer
from mirage_core.pipeline.registry import STAGES
from mirage_core.recipes import load
from mirage_core.teacher.prompt_templates import FOLDER

ENDPOINT = {"kind": "endpoint", "variant": "cot", "model": "m"}
DOCS = Path(__file__).parents[2] / "docs"
URL = "http://127.0.0.1:1/v1"


def settings(teacher: dict[str, Any], runtime: dict[str, Any] | None = None) -> Settings:
    chosen = {"base_url": URL, **(runtime or {})}
    return Settings.model_validate({"recipe": "fake", "teacher": teacher, "runtime": {"teacher": chosen}})


def changed(before: Settings, after: Settings) -> set[str]:
    return {name for name, stage in STAGES.items() if stage.identity(before) != stage.identity(after)}


OTHER_RUNTIME = {
    "base_url": "https://elsewhere.example/v1", "api_key_variable": "OTHER", "api_key_block": "block", "concurrency": 1,
    "requests_per_minute": 5, "tokens_per_minute": 5, "connect_timeout_s": 5.0, "timeout_s": 5.0, "tries": 1,
    "backoff_s": 5.0, "backoff_max_s": 5.0, "retry_after_max_s": 5.0, "max_answer_bytes": 5000, "price_prompt": 5.0,
    "price_completion": 5.0,
}  # fmt: skip
OTHER_TEACHER = {
    "model": "other", "revision": "abc", "temperature": 0.5, "top_p": 0.5, "seed": 5, "max_tokens": 5,
    "max_tokens_field": "max_completion_tokens", "attempts": 5, "min_thought_chars": 5, "max_thought_chars": 5,
    "betrayals": ["x"], "min_accepted": 0.5,
}  # fmt: skip


def test_every_setting_of_how_an_endpoint_is_reached_is_part_of_no_identity() -> None:
    assert set(OTHER_RUNTIME) == set(TeacherRuntime.model_fields)
    for name, value in OTHER_RUNTIME.items():
        assert changed(settings(ENDPOINT), settings(ENDPOINT, {name: value})) == set(), name


def test_every_setting_that_changes_the_chains_makes_another_data_set() -> None:
    in_other_form = {"kind", "variant", "template", "recording"}
    assert set(OTHER_TEACHER) == set(TeacherSettings.model_fields) - in_other_form
    for name, value in OTHER_TEACHER.items():
        result = changed(settings(ENDPOINT), settings({**ENDPOINT, name: value}))
        assert result == {"examples", "captions", "report"}, name  # captions are the same teacher's


def test_the_oracle_does_not_care_for_what_only_an_endpoint_reads() -> None:
    oracle = {"kind": "oracle", "variant": "cot"}
    for name, value in {**OTHER_TEACHER, "template": "nowhere"}.items():
        assert "examples" not in changed(settings(oracle), settings({**oracle, name: value})), name


def test_a_template_counts_by_content_and_a_recording_too(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "mirage", tmp_path / "mine")
    own = settings({**ENDPOINT, "template": str(tmp_path / "mine")})
    assert changed(settings(ENDPOINT), own) == set()
    before = STAGES["examples"].identity(own)
    (tmp_path / "mine/cot.sat.yaml").write_text("version: 2\nabout: nothing")
    assert STAGES["examples"].identity(own) != before

    line = Answer(
        request="a" * 64, problem="p", template="t", attempt=1, model="m", served="m", text="x", finish="stop"
    )
    for name in ("first.jsonl", "two.jsonl"):
        (tmp_path / name).write_bytes(line.to_line())
    replays = [
        settings({**ENDPOINT, "kind": "replay", "recording": str(tmp_path / f"{n}.jsonl")}) for n in ("first", "two")
    ]
    assert changed(*replays) == set()
    before = STAGES["examples"].identity(replays[0])
    (tmp_path / "first.jsonl").write_bytes(line.model_copy(update={"text": "y"}).to_line())
    assert STAGES["examples"].identity(replays[0]) != before
    (tmp_path / "first.jsonl").unlink()
    with pytest.raises(DataError, match="there is no recording"):
        STAGES["examples"].identity(replays[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.kind=endpoint"], "needs teacher.model"),
        (["teacher={kind: endpoint, model: m}"], "nothing to ask"),
        (["teacher={kind: replay, model: m, variant: direct}"], "nothing to ask"),
        (["teacher={kind: endpoint, model: m, variant: cot}"], "needs runtime.teacher.base_url"),
        (["runtime.teacher.base_url=ftp://host/v1"], "expected http:// or https://"),
        (["runtime.teacher.base_url=host/v1"], "expected http:// or https://"),
        (["runtime.teacher.base_url=http://"], "expected http:// or https://"),
        (["runtime.teacher.base_url=http://host:port/v1"], "expected a URL such as"),
        (["runtime.teacher.base_url=http://host/v1?key=secret-word"], "without a query"),
        (["runtime.teacher.base_url=https://me:secret-word@host/v1"], "no credentials in the URL"),
        (["runtime.teacher.api_key=secret-word"], "did you mean runtime.teacher.api_key_"),
        (["teacher.base_url=http://host/v1"], "did you mean runtime.teacher.base_url"),
    ],
)
def test_wrong_settings_are_said_without_what_may_be_secret(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load("micro", overrides)
    assert "secret-word" not in str(caught.value)
    assert "secret-word" not in str(caught.value.__cause__)


def test_the_recipe_that_the_documentation_shows_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "teacher.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    assert load(tmp_path / "mine.yaml").teacher.kind == "endpoint"
