"""Three hundred inputs that people and other programs get wrong: the files, the command, and a word of the message."""

from __future__ import annotations

import base64
import json
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.benchmarks.data_sets import picture

GOOD = picture(1, 32)
TEXT = base64.b64encode(GOOD).decode()
DEEP = "[" * 100_000
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


@dataclass(frozen=True)
class Bad:
    """A command, a word that its message must hold (in small letters), and the files that it is given."""

    words: tuple[str, ...]
    expected: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def _of(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


SETS = {  # --set -> the message
    "seed=x": "integer",
    "seed=-1": "seed",
    "seed=1.5": "integer",
    "seed=": "seed",
    "seed": "a.b=c",
    "=1": "a.b=c",
    "seed=[1": "yaml",
    "seed={": "yaml",
    'seed="': "yaml",
    "sed=1": "did you mean seed",
    "a.b.c=1": "unknown setting",
    "latent=3": "latent",
    "latent.num_latents=0": "num_latents",
    "latent.num_latents=-4": "num_latents",
    "latent.num_latents=4.5": "num_latents",
    "latent.num_latents=many": "num_latents",
    "latent.num_latent=4": "did you mean",
    "latent.num_latents=null": "num_latents",
    "latent.num_latents=[4]": "num_latents",
    "latent.num_latents={a: 1}": "plain value",
    "latent.end=never": "latent.end",
    "latent.max_spans=0": "max_spans",
    "latent.input=eyes": "latent.input",
    "latent.bottleneck=wide": "bottleneck",
    "latent.compression=odd": "compression",
    "prompt.form=long": "prompt.form",
    "prompt.image_scale=0": "image_scale",
    "prompt.image_scale=-1": "image_scale",
    "prompt.image_scale=.nan": "image_scale",
    "prompt.image_scale=.inf": "image_scale",
    "prompt.max_pixels=0": "max_pixels",
    "teacher.variant=maybe": "variant",
    "teacher.kind=human": "teacher.kind",
    "teacher.kind=endpoint": "teacher",
    "teacher.temperature=3": "temperature",
    "teacher.temperature=-0.1": "temperature",
    "teacher.min_accepted=2": "min_accepted",
    "model.source=": "model.source",
    "model.dtype=float8": "dtype",
    "model.attention=none": "attention",
    "model.architecture.hidden_size=0": "hidden_size",
    "model.architecture.mrope_section=[1]": "mrope_section",
    "model.architecture.vocab_size=-1": "vocab_size",
    "model.warmup.steps=-1": "warmup.steps",
    "model.lora.rank=0": "rank",
    "grounding.steps=-1": "grounding.steps",
    "grounding.steps=1e99": "grounding.steps",
    "grounding.batch_size=0": "batch_size",
    "grounding.batch_size=x": "batch_size",
    "grounding.learning_rate=-1": "learning_rate",
    "grounding.learning_rate=.inf": "learning_rate",
    "grounding.learning_rate=fast": "learning_rate",
    "grounding.gamma=-1": "gamma",
    "grounding=off": "grounding",
    "relaxation.steps=ten": "relaxation.steps",
    "grpo.group_size=0": "group_size",
    "grpo.group_size=1": "group_size",
    "grpo.group_size=-1": "group_size",
    "grpo.enabled=perhaps": "grpo.enabled",
    "grpo.kl=-1": "grpo",
    "grpo.clip=-1": "grpo",
    "grpo.temperature=0": "temperature",
    "evaluation.methods=[nobody]": "methods",
    "evaluation.methods=nobody": "methods",
    "evaluation.batch_size=0": "batch_size",
    "evaluation.max_new_tokens=0": "max_new_tokens",
    "evaluation.top_p=2": "top_p",
    "evaluation.samples=0": "samples",
    "report.trajectories=-1": "trajectories",
    "runtime.engine=steam": "engine",
    "runtime.processes=0": "processes",
    "runtime.threads=0": "threads",
    "runtime.zero_stage=9": "zero_stage",
    "runtime.timeouts={a: b}": "timeouts",
    "runtime.checkpoint_every=-1": "checkpoint_every",
    "problems.vsp_planning.train=-1": "train",
    "problems.vsp_planning.train_levels=[x]": "train_levels",
    "problems.vsp_planning.train_levels=[2]": "train_levels",
    "problems.vsp_planning.train_levels=[]": "train_levels is empty",
    "problems.vsp_planning.test_levels=[]": "test_levels is empty",
    "problems.vsp_planning.test_levels=[99]": "test_levels",
    "problems.own.file=": "file",
    "problems.task.module=nowhere.py": "module",
    "problems.task.module=no.such.module": "module",
    "analysis.measures=[luck]": "measures",
    "seed=2001-13-45": "yaml",
    "seed=!!float x": "yaml",
    "seed=!!python/object:os.system x": "yaml",
    "seed=&a [*a]": "aliases",
    "recipe=[1]": "recipe",
    "seed=\udcff": "surrogate",
    ".=1": "setting",
    "..seed=1": "setting",
    "seed.x=1": "seed",
    "runtime=null": "runtime",
}
RECIPES = {  # the text of a recipe -> the message
    "": "nonetype",
    "seed": "str",
    "[]": "list",
    "1": "int",
    "- seed: 1": "list",
    "seed: [": "yaml",
    "seed: 1\nseed: 2": "twice",
    "? [a]\n: 1": "a key is",
    "? {a: 1}\n: 1": "a key is",
    "\tseed: 1": "yaml",
    "seed: 1\n---\nseed: 2": "yaml",
    "seed: *a": "yaml",
    "seed: !!float x": "does not know",
    "seed: 2001-13-45": "does not know",
    "seed: !x 1": "yaml",
    "%YAML 9\n---\nseed: 1": "yaml",
    "seed: !!timestamp 1": "does not know",
    "extends: nobody\nseed: 1": "nobody",
    "extends: [tiny]": "extends",
    "extends: 3": "extends",
    "extends: recipe.yaml": "circle",
    "extends: ../..": "recipe",
    "extends: /etc/passwd": "recipe",
    "extends: missing.yaml": "missing.yaml",
    "sed: 1": "did you mean",
    "1: 2": "unknown setting",
    "null: 1": "unknown setting",
    "true: 1": "unknown setting",
    "grounding: [1]": "grounding",
    "grounding: {stops: 3}": "did you mean",
    "latent: 4": "latent",
    "recipe: 7": "recipe",
    "recipe: [a]": "recipe",
    "seed: one": "seed",
    "seed: 1.5": "seed",
    "grpo: yes": "grpo",
    "problems: null": "problems",
    "model: {source: {a: 1}}": "model.source",
    "evaluation: {methods: [x, y]}": "methods",
    'seed: "\\ud800"': "yaml",
    BOMB: "aliases",
    "seed: &a [*a]": "aliases",
    DEEP: "nested deeper",
    "a: b: c": "yaml",
    "\x00": "yaml",
    "seed: \x01": "yaml",
    "x" * 1_000_001: "not a recipe",
    "seed: 1 # \ud800": "cannot be read",
    "problems: {task: {module: 3}}": "module",
    "problems: {task: {module: gone.py}}": "module",
    "<<: 1": "yaml",
    "problems: {own: {file: [a]}}": "file",
}
STUDIES = {  # the text of a study -> the message
    "": "nonetype",
    "[]": "list",
    "cells: 1": "not valid",
    "name: x": "not valid",
    "cells: []\nrecipe: micro\nbaseline: a": "cells",
    "recipe: micro\nbaseline: b\ncells: [{name: a, method: stage-2}]": "baseline",
    "cels: []": "did you mean cells",
    "recipe: micro\nbaseline: a\ncells: [{name: a, method: magic}]": "magic",
    "recipe: micro\nbaseline: a\ncells: [1]": "cells",
    "recipe: micro\nbaseline: a\ncells: [{name: A B, method: stage-2}]": "name",
    "recipe: 3\nbaseline: a\ncells: []": "recipe",
    "recipe: micro\nbaseline: a\nseeds: [x]\ncells: [{name: a, method: stage-2}]": "seeds",
    "recipe: micro\nbaseline: a\nseeds: [-1]\ncells: [{name: a, method: stage-2}]": "seeds",
    "recipe: micro\nbaseline: a\nseeds: [1, 1]\ncells: [{name: a, method: stage-2}]": "seeds",
    "recipe: micro\nbaseline: a\nseeds: []\ncells: [{name: a, method: stage-2}]": "seeds",
    "recipe: nobody\nbaseline: a\ncells: [{name: a, method: stage-2}]": "nobody",
    "recipe: micro\nbaseline: a\nmeasures: [luck]\ncells: [{name: a, method: stage-2}]": "luck",
    "recipe: micro\nbaseline: a\ncells: [{name: a, method: stage-2, overrides: {sed: 1}}]": "sed",
    "recipe: micro\nbaseline: a\ncells: [{name: a, method: stage-2, overrides: [1]}]": "overrides",
    "recipe: micro\nbaseline: x-1\ncells: [{sweep: seed, values: [1], method: stage-2, name: x, label: '{0}'}]": "label",  # noqa: E501
    "recipe: micro\nbaseline: x-1\ncells: [{sweep: seed, values: [1], method: stage-2, name: x, label: '{setting.x}'}]": "label",  # noqa: E501
    "recipe: micro\nbaseline: a\ncells: [{sweep: seed, values: [], method: stage-2}]": "values",
    "recipe: micro\nbaseline: a\ncells: [{name: a, method: stage-2}, {name: a, method: stage-2}]": "two cells",
}
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
