"""Run in vLLM's environment: `python load_jobs.py CASES` tries to load models, and prints why each could not be."""

from __future__ import annotations

import json
import sys

from vllm import LLM


def main() -> None:
    found: dict[str, str | None] = {}
    for case in json.loads(sys.argv[1]):
        try:
            LLM(case["model"], dtype="float32", enforce_eager=True, max_model_len=256, **case["engine"])
            found[case["name"]] = None
        except Exception as error:  # whatever vLLM makes of it, the text is what a person reads
            found[case["name"]] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
