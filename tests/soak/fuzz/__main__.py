"""`python -m tests.soak.fuzz`: so many mutated cases for each parser, and what came of them, as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import warnings
from pathlib import Path

from tests.soak.fuzz import TARGETS
from tests.soak.fuzz.target import memory, run


def main() -> int:
    """Run the targets that were asked for; status 1 if any input gave another error than the project's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="cases for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="processor seconds for each target at most")
    parser.add_argument("--targets", default="", help="words of the targets' names, comma-separated; empty: all")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    words = [word.strip() for word in options.targets.split(",") if word.strip()]
    bad = 0
    for target in TARGETS:
        if words and not any(word in target.name for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="mirage-fuzz-", dir=memory()) as folder:
            tally = run(target, Path(folder), options.count, options.seed, options.seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({**tally.as_json(), "peak MiB": round(peak)}), flush=True)
        for said, case in tally.kept:
            print(f"{target.name}: {said}\n    {case}", file=sys.stderr, flush=True)
        bad += bool(tally.faults)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
