"""The response cache: answers saved at once, under the digest of their request, and checked when read."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import DataError, EndpointError
from mirage_core.llm_client.request import make_request
from mirage_core.llm_client.response_cache import Answer, Recording, StoredResponseCache
from mirage_core.store import Store
from tests.teacher.conftest import teacher_settings

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


def answer(digest: str = "a" * 64, text: str = "well") -> Answer:
    return Answer(
        request=digest, problem="p", template="t@1", attempt=1, model="org/model", served="m", text=text, finish="stop"
    )


@pytest.fixture(params=["local", "remote"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each sort."""
    return Store.open(tmp_path / "s" if request.param == "local" else f"memory://answers-{uuid.uuid4().hex}/x")


def test_an_answer_is_found_again_by_another_process_and_belongs_to_its_model(either: Store) -> None:
    kept = StoredResponseCache(either, "org/model")
    assert kept.find("a" * 64) is None
    assert kept.save(answer()) == answer()
    assert kept.find("a" * 64) == answer()
    assert StoredResponseCache(either, "org/model").find("a" * 64) == answer()
    assert StoredResponseCache(either, "org/other").find("a" * 64) is None
    assert either.list() == []


def test_the_answer_that_was_kept_first_is_what_counts(either: Store) -> None:
    one, other = StoredResponseCache(either, "m"), StoredResponseCache(either, "m")
    one.save(answer(text="first"))
    assert other.save(answer(text="second")).text == "first"
    assert other.find("a" * 64) == answer(text="first")


@pytest.mark.parametrize("damage", [b"", b'{"format":1,"req', b"{}", answer("b" * 64).to_line()])
def test_a_damaged_answer_counts_as_none_and_is_replaced(
    either: Store, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    StoredResponseCache(either, "m").save(answer())
    key = f"answers/m/{'a' * 64}.json"
    either.backend.write(key, damage)
    kept = StoredResponseCache(either, "m")
    assert kept.find("a" * 64) is None
    assert key in caplog.text
    assert kept.save(answer(text="again")).text == "again"
    assert StoredResponseCache(either, "m").find("a" * 64) == answer(text="again")


def test_every_flipped_bit_of_a_kept_answer_is_noticed(tmp_path: Path) -> None:
    store, kept = Store.open(tmp_path), answer(text="The way is RIGHT, then 5 DOWN.")
    StoredResponseCache(store, "m").save(kept)
    key = f"answers/m/{'a' * 64}.json"
    good = store.backend.read(key)
    for at in range(len(good) - 1):
        (tmp_path / key).write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        assert StoredResponseCache(store, "m").find("a" * 64) is None, good[: at + 1]


def test_an_answer_that_an_earlier_version_kept_is_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.backend.write(f"answers/m/{'a' * 64}.json", answer().model_dump_json().encode())
    assert StoredResponseCache(store, "m").find("a" * 64) == answer()


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "a/b/../c", "/abs", "", "ü:* |", "x" * 500])
def test_a_models_name_never_leaves_the_folder_of_answers(tmp_path: Path, model: str) -> None:
    store = Store.open(tmp_path / "store")
    StoredResponseCache(store, model).save(answer())
    (name,) = store.names("answers/")
    assert len(name.split("/")) == 3
    assert StoredResponseCache(store, model).find("a" * 64) == answer()


def test_a_recording_is_a_file_of_lines_or_a_folder_of_answers(tmp_path: Path) -> None:
    lines = answer().to_line() + b"\n" + answer("b" * 64).to_line()
    (tmp_path / "file.jsonl").write_bytes(lines)
    store = Store.open(tmp_path / "store")
    for name in "ab":
        StoredResponseCache(store, "m").save(answer(name * 64))
    for path in (tmp_path / "file.jsonl", tmp_path / "store/answers"):
        recording = Recording(path)
        assert recording.find("b" * 64) == answer("b" * 64)
        assert recording.find("c" * 64) is None
        with pytest.raises(EndpointError, match="takes no answers"):
            recording.save(answer("c" * 64))


def test_a_torn_last_line_is_left_out_and_a_torn_line_before_it_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "r.jsonl"
    file.write_bytes(answer().to_line() + answer("b" * 64).to_line()[:40])
    assert Recording(file).find("a" * 64) == answer()
    assert "line 2 is not a whole answer" in caplog.text
    file.write_bytes(answer("b" * 64).to_line()[:40] + b"\n" + answer().to_line())
    with pytest.raises(DataError, match="line 1 is not an answer"):
        Recording(file)


def test_a_recording_that_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no recording"):
        Recording(tmp_path / "gone")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no answers"):
        Recording(tmp_path / "empty.jsonl")


def test_the_digest_is_of_everything_that_may_change_the_answer_and_of_nothing_else() -> None:
    base = make_request(teacher_settings(), MESSAGES).digest
    for changes in (
        {"model": "other"}, {"revision": "abc"}, {"temperature": 0.7}, {"top_p": 0.9}, {"seed": 1}, {"seed": None},
        {"max_tokens": 9}, {"max_tokens_field": "max_completion_tokens"},
    ):  # fmt: skip
        assert make_request(teacher_settings(**changes), MESSAGES).digest != base, changes
    assert make_request(teacher_settings(), [{"role": "user", "content": "bye"}]).digest != base
    for changes in ({"attempts": 9}, {"min_accepted": 0.1}, {"betrayals": ()}, {"min_thought_chars": 3}):
        assert make_request(teacher_settings(**changes), MESSAGES).digest == base, changes
    # Another digest means that everybody pays anew for what they have: change it on purpose only.
    assert base == "a2ba792587871f981b3807d60fd4cee480398ce36972f7636abf3ba9af3a6f81"
