"""Three hundred inputs that people and other programs get wrong: the files, the command, and a word of the message."""

from __future__ import annotations

import base64
import json
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.benchmarks.data_sets import picture
from tests.flows.bad_settings import DEEP, RECIPES, SETS, STUDIES

GOOD = picture(1, 32)
TEXT = base64.b64encode(GOOD).decode()


@dataclass(frozen=True)
class Bad:
    """A command, a word that its message must hold (in small letters), and the files that it is given."""

    words: tuple[str, ...]
    expected: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def _of(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


OWN = {"question": "Which?", "images": ["a.png"], "options": ["left", "right"], "answer": "left", "split": "test"}
LINES = {  # a user's own line -> the message
    "{": "not valid json",
    "[]": "expected a json object",
    "1": "expected a json object",
    "null": "expected a json object",
    "{'a': 1}": "not valid json",
    DEEP: "too deeply",
    '{"question": "\\ud800"}': "surrogate",
    "\ud800": "utf-8",
    "NaN": "json object",
    **{
        json.dumps({**OWN, **changed}): expected
        for changed, expected in (
            ({"question": None}, "question"),
            ({"question": 3}, "question"),
            ({"question": " "}, "question"),
            ({"images": []}, "images"),
            ({"images": "a.png"}, "images"),
            ({"images": [None]}, "images"),
            ({"images": ["b.png"]}, "missing"),
            ({"images": [""]}, "folder"),
            ({"images": ["/etc/passwd"]}, "folder"),
            ({"images": ["../a.png"]}, "folder"),
            ({"images": ["a\x00.png"]}, "file name"),
            ({"images": ["x" * 300]}, "missing"),
            ({"images": ["x" * 5000]}, "no file has"),
            ({"images": ["."]}, "folder"),
            ({"options": "left"}, "options"),
            ({"options": ["left"]}, "options"),
            ({"options": [1, 2]}, "options"),
            ({"answer": None}, "answer"),
            ({"answer": "up"}, "none of the options"),
            ({"answer": ["left"]}, "answer"),
            ({"anser": "x"}, "unknown key"),
            ({"split": "dev"}, "split"),
            ({"split": ["test"]}, "split"),
            ({"split": "train"}, "auxiliary_image"),
            ({"id": 5}, "id"),
            ({"boxes": 3}, "boxes"),
            ({"boxes": [[0, 0, 1]]}, "box"),
            ({"boxes": [[1, 1, 0, 0]]}, "box"),
            ({"boxes": [[0, 0, 9, 9]]}, "box"),
            ({"question": "<image> <image>"}, "2 times"),
            ({"text_before": "a"}, "go together"),
            ({"auxiliary_image": "b.png"}, "missing"),
            ({"auxiliary_images": "a.png"}, "auxiliary_images"),
            ({"question": "Which <|im_end|>?"}, "special"),
        )
    },
}
PREDICTIONS = {  # a line of predictions for the one row of data -> the message
    "": "no rows",
    "{}": "row",
    "{": "not valid json",
    "[]": "json object",
    '{"row": -1, "output": ""}': "row",
    '{"row": 1, "output": ""}': "unknown",
    '{"row": "0", "output": ""}': "row",
    '{"row": true, "output": ""}': "row",
    '{"row": 0}': "output",
    '{"row": 0, "output": 3}': "output",
    '{"row": 0, "output": ["A"]}': "output",
    '{"id": [0], "output": "A"}': "none of",
    '{"id": "x", "output": "A"}': "none of",
    '{"id": null, "output": "A"}': "none of",
    '{"row": 0.0, "output": "A"}': "row",
    '{"row": 0, "order": 3, "output": "A"}': "unknown",
    '{"row": 0, "output": "A"}\n{"row": 0, "output": "B"}': "already",
    '{"row": 1e999, "output": "A"}': "row",
    '{"row": 0, "output": "\\ud800"}': "surrogate",
    "\xff\xfe": "not valid json",
    '{"output": "A"}': "row",
}
PNG_OF = {  # the bytes of a picture -> the message
    b"": "decoded",
    b"x": "decoded",
    b"\x89PNG\r\n\x1a\n": "decoded",
    GOOD[:40]: "decoded",
    GOOD[:-30]: "decoded",
    b"GIF89a": "decoded",
    b"\xff\xd8\xff": "decoded",
    b"RIFF\x00\x00\x00\x00WEBP": "decoded",
    b"BM" + b"\x00" * 60: "decoded",
    b"II*\x00" + b"\xff" * 30: "decoded",
    b"<svg/>": "decoded",
    b"%PDF-1.4": "decoded",
    GOOD[:16] + struct.pack(">II", 60_000, 60_000) + GOOD[24:]: "decoded",
    GOOD[:16] + struct.pack(">II", 7_000, 7_000) + GOOD[24:]: "decoded",
    GOOD[:16] + struct.pack(">II", 0, 4) + GOOD[24:]: "decoded",
}
PUBLISHED = (  # benchmark, a row of its published layout, the message
    ("vsp-planning", {}, "missing"),
    ("vsp-planning", {"text_input": "<image>"}, "missing"),
    ("vsp-planning", {"text_input": 3}, "text_input"),
    ("vsp-planning", {"text_input": "none", "image_input": "a.png", "map_desc": []}, "<image>"),
    *(
        ("vsp-planning", {"text_input": "<image>", "image_input": "a.png", "map_desc": map_desc}, "map_desc")
        for map_desc in (
            None,
            3,
            [],
            [[]],
            [[1, 2]],
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[1, -1, 0], [-1, -1, 0], [0, 0, 2]],
            [["a"] * 3] * 3,
            [[5] * 3] * 3,
        )
    ),
    ("vsp-reasoning", {"text_input": "<image>", "text_output": "A", "image_input": "a.png"}, "line 1"),
    ("vsp-reasoning", {}, "missing"),
    ("sat", {}, "question"),
    ("sat", {"question": "a", "answers": "b", "correct_answer": "c"}, "answers"),
    ("sat", {"question": "a", "answers": ["b", "c"], "correct_answer": "d", "image_bytes": [TEXT]}, "none of"),
    ("sat", {"question": "a", "answers": ["b", "c"], "correct_answer": "b", "image_bytes": TEXT}, "list of images"),
    ("sat", {"question": "a", "answers": ["b", "c"], "correct_answer": "b", "image_bytes": [3]}, "bytes"),
    (
        "sat",
        {"question": "a", "answers": ["b"], "correct_answer": "b", "image_bytes": [TEXT], "question_type": "x"},
        "options",
    ),
    ("comt", {}, "type"),
    ("comt", {"type": "creation", "image": 3}, "image"),
    ("comt", {"type": "x", "image": {"IMAGE0": "a"}}, "none of"),
    ("comt", {"type": "creation", "image": "{[]: 1}"}, "image"),
    ("comt", {"type": "creation", "image": "(" * 5000}, "image"),
    ("blink-jigsaw", {}, "choices"),
    ("blink-jigsaw", {"choices": ["a", "b"], "answer": "hidden", "image_1": TEXT}, "hidden"),
    ("blink-jigsaw", {"choices": ["a", "b"], "answer": "(A)"}, "no image"),
    ("blink-jigsaw", {"choices": [1], "answer": "A"}, "choices"),
    ("vstar", {}, "text"),
    ("vstar", {"text": "a", "category": "b"}, "category"),
    ("vstar", {"text": "a", "category": "relative_position"}, "image"),
    ("hr-bench-4k", {}, "image"),
    ("hr-bench-4k", {"image": "!"}, "image"),
    ("mme-realworld-lite", {}, "column"),
    ("tablevqa", {}, "part"),
    ("tablevqa", {"part": "vwtq"}, "column"),
    ("tablevqa", {"part": ["vwtq"]}, "part"),
)
USAGE = (  # words of the command line, the message
    ("rum", "no such command"),
    ("run --recpie tiny", "no such option"),
    ("run --recipe", "requires an argument"),
    ("run tiny", "unexpected"),
    ("run --recipe tinny --dry-run", "did you mean tiny"),
    ("run --recipe ./no.yaml --dry-run", "no recipe file"),
    ("run --recipe . --dry-run", "recipe"),
    ("run --recipe '' --dry-run", "recipe"),
    ("plan --recipe micro --gpus x", "integer"),
    ("plan --recipe micro --gpus 0", "gpus"),
    ("plan --recipe micro --gpu-gib -1", "gpu-gib"),
    ("plan --recipe micro --gpu-gib x", "gpu-gib"),
    ("study", "missing argument"),
    ("study nobody --dry-run", "nobody"),
    ("study paper --seeds a --dry-run", "seeds"),
    ("study paper --cells a --dry-run", "cell"),
    ("study paper --parallel 0 --dry-run", "parallel"),
    ("study ./gone.yaml --dry-run", "gone.yaml"),
    ("report", "no run"),
    ("report --run x", "x"),
    ("report --trend 'a b'", "no night"),
    ("evaluate", "missing option"),
    ("evaluate --benchmark nobody", "nobody"),
    ("evaluate --benchmark sat --levels x", "levels"),
    ("evaluate --benchmark sat --blank", "endpoint"),
    ("evaluate --benchmark sat --endpoint ''", "base_url"),
    ("evaluate --benchmark sat --endpoint ftp://x", "base_url"),
    ("evaluate --benchmark sat --per-level 0", "per-level"),
    ("evaluate --benchmark sat --data a.png --endpoint http://127.0.0.1:9 --model m --prompt loud", "loud"),
    ("answer", "missing argument"),
    ("answer gone.png", "gone.png"),
    ("answer a b c d", "image"),
    ("diagnose gone --direct", "gone"),
    ("score --benchmark nobody --predictions a.png", "nobody"),
    ("score --benchmark sat --predictions gone.jsonl --data gone.jsonl", "gone.jsonl"),
    ("compare a.png", "missing argument"),
    ("compare gone gone", "gone"),
    ("compare a.png a.png", "a.png"),
    ("compare a.jsonl b.jsonl", "benchmark"),
    ("store show x", "no artifact"),
    ("store show ''", "no artifact"),
    ("store verify x", "no artifact"),
    ("store gc --older-than soon", "soon"),
    ("store gc --older-than -1d", "-1d"),
    ("store gc --keep-runs 0", "keep-runs"),
    ("store point 'a b' x", "no artifact"),
    ("store point a x", "no artifact"),
    ("store ls ../x", "not allowed"),
    ("store ls --store ftp://nowhere.invalid/x", "cannot be opened"),
    ("store ls --store s3://", "bucket"),
    ("export gone out", "gone"),
    ("push gone --to x", "x"),
    ("data check gone.jsonl", "gone.jsonl"),
    ("data probe --benchmark nobody --data .", "nobody"),
    ("data probe --benchmark sat --data gone", "gone"),
    ("data preview gone.jsonl", "gone.jsonl"),
    ("serve gone", "gone"),
    ("serve --port 99999", "port"),
    ("serve --host 0.0.0.0", "key"),
    ("serve --api-key-file gone", "gone"),
    ("s3-block 'A B'", "no prefect server"),
)
MIRAGE_JSON = {  # the mirage.json of a model's folder that is exported -> the message
    "{": "json",
    "[": "json",
    DEEP: "json",
    "\ud800": "json",
    '{"a": "\\ud800"}': "json",
    '{"prompt": 3}': "prompt",
    '{"latent": {"num_latents": "x"}}': "latent",
    '{"variant": "loud"}': "variant",
    '{"settings": {"seed": "x"}}': "settings",
    '{"history": [3]}': "mirage.json",
    '{"history": {"a": 1}}': "mirage.json",
}


def all_bad() -> Iterator[Bad]:
    """Yield every bad input of the tables above."""
    for text, expected in SETS.items():
        yield Bad(("run", "--recipe", "micro", "--dry-run", "--set", text), expected)
    for text, expected in RECIPES.items():
        yield Bad(("run", "--recipe", "./recipe.yaml", "--dry-run"), expected, {"recipe.yaml": _of(text)})
    for text, expected in STUDIES.items():
        yield Bad(("study", "./study.yaml", "--dry-run"), expected, {"study.yaml": _of(text)})
    for text, expected in LINES.items():
        yield Bad(
            ("data", "check", "own.jsonl", "--recipe", "micro"), expected, {"own.jsonl": _of(text), "a.png": GOOD}
        )
    good = _of(json.dumps(OWN))
    for text, expected in PREDICTIONS.items():
        files = {"own.jsonl": good, "a.png": GOOD, "answers.jsonl": _of(text)}
        yield Bad(_score("own", "own.jsonl"), expected, files)
    for data, expected in PNG_OF.items():
        yield Bad(_score("own", "own.jsonl"), expected, {"own.jsonl": good, "a.png": data, "answers.jsonl": b"{}"})
    for name, row, expected in PUBLISHED:
        files = {"rows.jsonl": _of(json.dumps(row)), "a.png": GOOD, "answers.jsonl": b"{}"}
        yield Bad(_score(name, "rows.jsonl"), expected, files)
    for line, expected in USAGE:
        yield Bad(tuple(shlex.split(line)), expected, {"a.png": GOOD})
    for text, expected in MIRAGE_JSON.items():
        yield Bad(("export", "model", "out"), expected, {"model/config.json": b"{}", "model/mirage.json": _of(text)})


def _score(benchmark: str, data: str) -> tuple[str, ...]:
    return ("score", "--benchmark", benchmark, "--data", data, "--predictions", "answers.jsonl")


BAD = tuple(all_bad())
