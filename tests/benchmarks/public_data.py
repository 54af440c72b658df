"""Small files of the published layouts of V*, HR-Bench, MME-RealWorld-Lite, BLINK Multi-view and TableVQA-Bench."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.benchmarks.data_sets import picture, write_parquet

ROTATIONS = 4


def vstar_folder(folder: Path, questions: bool = True) -> Path:
    """A folder like craigwu/vstar_bench: two questions of each kind, as test_questions.jsonl or beside each picture."""
    rows = []
    for group, options in (
        ("direct_attributes", ["red", "blue", "green", "black"]),
        ("relative_position", ["left", "right"]),
    ):
        (folder / group).mkdir(parents=True)
        for number in range(2):
            name = f"{group}/sa_{number}"
            (folder / f"{name}.jpg").write_bytes(picture(number, kind="JPEG"))
            question = f"What about thing {number} of {group}?"
            lines = [f"({letter}) {text}" for letter, text in zip("ABCD", options, strict=False)]
            annotation = {"target_object": ["thing"], "bbox": [[1, 2, 3, 4]], "question": question, "options": options}
            (folder / f"{name}.json").write_text(json.dumps(annotation))
            ending = "Answer with the option's letter from the given choices directly."
            rows.append(
                {
                    "image": f"{name}.jpg",
                    "text": "\n".join([question, *lines, ending]),
                    "category": group,
                    "label": "AB"[number],
                    "question_id": len(rows),
                }
            )
    if questions:
        (folder / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def hr_bench_rows(questions: int = 2) -> list[dict[str, Any]]:
    """Rows as DreamMr/HR-Bench has them, a question's four rotations one after the other; "right" is right."""
    rows = []
    for number in range(questions):
        texts = ["right", f"wrong {number}", "other", "more"]
        for turn in range(ROTATIONS):
            options = texts[-turn:] + texts[:-turn]
            rows.append(
                {
                    "index": len(rows),
                    "question": f"What is question {number}?",
                    **dict(zip("ABCD", options, strict=True)),
                    "answer": "ABCD"[options.index("right")],
                    "category": ("single", "cross")[number % 2],
                    "cycle_category": f"cycle_{turn}",
                    "image": base64.b64encode(picture(number)).decode(),
                }
            )
    return rows


def hr_bench_folder(folder: Path, questions: int = 2) -> Path:
    """A folder like DreamMr/HR-Bench with both sizes."""
    below = folder / "hrbench_version_split"
    write_parquet(below / "hrbench_4k-00000-of-00001.parquet", hr_bench_rows(questions))
    write_parquet(below / "hrbench_8k-00000-of-00001.parquet", hr_bench_rows(1))
    return folder


def mme_rows() -> list[dict[str, Any]]:
    """Rows as yifanzhang114/MME-RealWorld-lite-lmms-eval has them."""
    categories = ("Perception/OCR with Complex Context", "Reasoning/Autonomous_Driving", "Perception/Remote Sensing")
    texts = ["7", "17", "27", "37", "The image does not feature the number."]
    return [
        {
            "index": number,
            "bytes": base64.b64encode(picture(number)).decode(),
            "question": f"What is the number of sign {number}?",
            "multi-choice options": [f"({letter}) {text}" for letter, text in zip("ABCDE", texts, strict=True)],
            "answer": "ABE"[number],
            "category": category,
            "l2-category": ("license plate", "attention", "color")[number],
        }
        for number, category in enumerate(categories)
    ]


def multi_view_rows(count: int = 2) -> list[dict[str, Any]]:
    """Rows as BLINK's Multi-view_Reasoning has them: two views, image_3 and image_4 null."""
    question = "The camera is moving while shooting. Is it moving clockwise (left) or counter-clockwise (right)?"
    return [
        {
            "idx": f"val_Multi-view_Reasoning_{number + 1}",
            "sub_task": "Multi-view_Reasoning",
            "question": question,
            "prompt": f"{question}\nSelect from the following choices.\n(A) left\n(B) right",
            "choices": ["left", "right"],
            "answer": ("(A)", "(B)")[number % 2],
            **{f"image_{at}": {"bytes": picture(5 * number + at), "path": f"{at}.png"} for at in (1, 2)},
            "image_3": None,
            "image_4": None,
        }
        for number in range(count)
    ]


def tablevqa_rows(part: str) -> list[dict[str, Any]]:
    """Rows as terryoo/TableVQA-Bench has them, two of a part."""
    right = {
        "vwtq": ["2", "Joe Straus|Lyle Larson"],
        "vwtq_syn": ["October 24", "1,470"],
        "vtabfact": ["1", "0"],
        "fintabnetqa": ["$641.8", "17.5%"],
    }[part]
    return [
        {
            "qa_id": f"{part}-{number}",
            "image": {"bytes": picture(number), "path": "table.png"},
            "question": f"Question {number} about the table?",
            "text_html_table": "<table></table>",
            "gt": answer,
        }
        for number, answer in enumerate(right)
    ]


def tablevqa_folder(folder: Path) -> Path:
    """A folder like terryoo/TableVQA-Bench: a parquet file a part."""
    for part in ("vwtq", "vwtq_syn", "vtabfact", "fintabnetqa"):
        write_parquet(folder / "data" / f"{part}-00000-of-00001.parquet", tablevqa_rows(part))
    return folder
