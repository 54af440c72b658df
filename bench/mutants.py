"""Change the core one line at a time, run the tests of that part, and print the changes that no test noticed.

    make mutants                       # all of them: the better part of an hour on two cores
    python -m bench.mutants grpo       # those whose file or description has this word

Each mutant is made in one temporary copy of the tree, which is put back after it. The exit code is 1 if one survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("mirage_core", "tests", "tasks", "flows", "bench", "docs")
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: in ``file`` (below mirage_core) ``old`` becomes ``new``, and ``tests`` (below tests) should fail."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


GRPO_TESTS = ("training/test_grpo_loss.py", "training/test_grpo_rewards.py", "training/test_grpo.py")
DECODE_TESTS = ("generation/test_decode.py",)
LOSS_TESTS = ("training/test_losses.py",)
PICTURE_TESTS = ("analysis/test_pictures.py", "analysis/test_bootstrap.py")
GROUNDING_TESTS = ("training/test_losses.py", "training/test_loop.py")
FORWARD_TESTS = ("model/test_forward.py",)

MUTANTS = (
    Mutant("advantage not divided by the deviation", "training/grpo/rewards.py",
           'return centred if divide_by == "mean" else', "return centred if divide_by else", GRPO_TESTS),
    Mutant("advantage setting ignored", "training/grpo/rollouts.py",
           "group_advantages(totals, self._settings.grpo.advantage)", 'group_advantages(totals, "mean")', GRPO_TESTS),
    Mutant("advantage without the mean", "training/grpo/rewards.py",
           "centred = [value - mean for value in rewards]", "centred = [value for value in rewards]", GRPO_TESTS),
    Mutant("GRPO's loss over drawn answers", "training/grpo/objective.py",
           'learned = max(1.0, totals["rollouts"])', 'learned = max(1.0, totals["drawn"])', GRPO_TESTS),
    Mutant("clip on the wrong side", "training/grpo/loss.py",
           "surrogate = torch.minimum(", "surrogate = torch.maximum(", GRPO_TESTS),
    Mutant("ratio to itself", "training/grpo/loss.py",
           "ratio = torch.exp(log_probs - sampled_log_probs)", "ratio = torch.exp(log_probs - log_probs)", GRPO_TESTS),
    Mutant("KL left out", "training/grpo/loss.py",
           "_row_mean(kl_weight * kl - surrogate, mask)", "_row_mean(-surrogate, mask)", GRPO_TESTS),
    Mutant("KL of the other sign", "training/grpo/loss.py",
           "difference = reference_log_probs - log_probs", "difference = log_probs - reference_log_probs", GRPO_TESTS),
    Mutant("answers summed, not averaged", "training/grpo/loss.py",
           ".sum(1) / mask.sum(1).clamp_min(1)", ".sum(1)", GRPO_TESTS),
    Mutant("a right answer earns nothing", "training/grpo/rewards.py",
           "return value if correct else 0.0", "return 0.0 if correct else value", GRPO_TESTS),
    Mutant("an empty box is well formed", "training/grpo/rewards.py",
           "return content is not None and any(", "return content is not None and bool(content.strip() or 1) or any(",
           GRPO_TESTS),
    Mutant("an unreadable box is well formed", "training/grpo/rewards.py",
           "formed = (parsed or correct) and", "formed = ", GRPO_TESTS),
    Mutant("a reward that is no number passes", "training/grpo/rewards.py",
           "if not all(map(math.isfinite, rewards)):", "if False:", GRPO_TESTS),
    Mutant("a failing scorer is a wrong answer", "benchmarks/judge.py",
           "    except MirageError:\n        raise\n    except Exception as error:\n",
           "    except Exception as error:\n        return Score(problem_id=problem.id, correct=False, parsed=None, "
           "rule=planning_rule)\n", GRPO_TESTS),
    Mutant("latents on where the model has none", "training/grpo/train.py",
           'return "on" if has_latents(job) else "off"', 'return "on"', ("training/test_grpo_text.py",)),
    Mutant("a model's own settings ignored", "training/checkpoint/model_metadata.py",
           "if found[name] != wanted[name]", "if False", ("training/test_model_metadata.py",)),
    Mutant("gamma left out of the loop's total", "training/sft/objective.py",
           "LossParts.sum(parts, loss.weights)", 'LossParts.sum(parts, {"visual": 1.0, "text": 1.0} if "visual" in '
           "loss.weights else loss.weights)", GROUNDING_TESTS),
    Mutant("gamma on the visual loss", "training/sft/losses.py",
           '{"visual": 1.0, "text": settings.text_weight}', '{"visual": settings.text_weight, "text": 1.0}',
           LOSS_TESTS),
    Mutant("targets keep the graph of a trained tower", "model/forward/grounding.py",
           "    with torch.no_grad():\n        features = list(batch.auxiliary_features)",
           "    with torch.enable_grad():\n        features = list(batch.auxiliary_features)", FORWARD_TESTS),
    Mutant("latents detached", "model/forward/forward.py",
           "outputs[-1].index_select(0, current.latent_sources)",
           "outputs[-1].index_select(0, current.latent_sources).detach()", FORWARD_TESTS),
    Mutant("a choice to go on is not counted", "generation/trajectory.py",
           "answer.went_on = (answer.went_on or 0.0) + log_prob", "pass", DECODE_TESTS),
    Mutant("the forced end of a free span is not learned", "generation/trajectory.py",
           "self.sampled.append(not forced or self.went_on is not None)", "self.sampled.append(not forced)",
           DECODE_TESTS),
    Mutant("the choices are left out of training", "training/grpo/log_probs.py",
           "columns = labelled if choices is None else labelled | choices.going_on",
           "choices = None; columns = labelled", DECODE_TESTS),
    Mutant("a forced end has a probability", "training/grpo/log_probs.py",
           "values = values.masked_fill(choices.forced[columns], 0.0)", "pass", DECODE_TESTS),
    Mutant("a span one latent short", "generation/latent_modes.py",
           "self._countdown: Ints = np.where(in_span, num_latents + 1, 0)",
           "self._countdown: Ints = np.where(in_span, num_latents, 0)", DECODE_TESTS),
    Mutant("an end is allowed at once", "generation/latent_modes.py",
           "(1 if self._kind == \"open\" else self.num_latents)", "(self.num_latents + 1)", DECODE_TESTS),
    Mutant("banned tokens are drawn", "generation/sampling.py",
           "if self.banned:", "if False:", DECODE_TESTS),
    Mutant("temperature ignored", "generation/sampling.py",
           "logits.float() / (self.temperature or 1.0)", "logits.float()", (*LOSS_TESTS, *DECODE_TESTS)),
    Mutant("the nucleus lets everything through", "generation/sampling.py",
           "outside = probabilities.cumsum(-1) - probabilities >= top_p",
           "outside = probabilities.cumsum(-1) - probabilities > 1e9", DECODE_TESTS),
    Mutant("gradients summed in bfloat16", "training/engine/plain.py",
           "parameter.grad is None or parameter.dtype == torch.float32", "True", ("training/test_engine.py",)),
    Mutant("gradients of all micro-batches but the last are lost", "training/engine/plain.py",
           "self._sums[number] = parameter.grad.float()", "pass", ("training/test_engine.py",)),
    Mutant("no clipping", "training/engine/plain.py",
           "self._masters, self._settings.max_grad_norm", "self._masters, 1e9", ("training/test_engine.py",)),
    Mutant("folds by question", "evaluation/pictures.py",
           "parents[later] = earlier", "pass", PICTURE_TESTS),
    Mutant("labels shuffled one by one", "analysis/measures/probes.py",
           "np.arange(len(groups)) if units is None else units)", "np.arange(len(groups)))", PICTURE_TESTS),
    Mutant("the bootstrap draws questions", "analysis/bootstrap.py",
           "if units is None or not has_shared(units):\n        return generator", "if True:\n        return generator",
           PICTURE_TESTS),
    Mutant("Wilson's interval of questions", "analysis/bootstrap.py",
           "return n / min(max(effect, 1.0), float(n))", "return n", PICTURE_TESTS),
    Mutant("donors of the same picture", "analysis/donors.py",
           "if of_instance[donor] != of_instance[recipient]", "if donor != recipient", PICTURE_TESTS),
    Mutant("probes' p counts questions", "analysis/verdict.py",
           "observations = probe.pictures or probe.test", "observations = probe.test", PICTURE_TESTS),
    Mutant("the trend counts questions", "analysis/measures/interventions.py",
           "units = np.arange(len(correct)) if units is None else units", "units = np.arange(len(correct))",
           ("analysis/test_dose_response.py",)),
    Mutant("the lens shuffles latents one by one", "analysis/lens/patch_matching.py",
           'exchangeable([""] * n, units)', 'exchangeable([""] * n, np.arange(n))', ("analysis/test_lens.py",)),
    Mutant("a latent is ranked among those of its picture", "analysis/lens/patch_matching.py",
           "ranks = _ranks(fits, units)", "ranks = _ranks(fits, np.arange(n))", ("analysis/test_lens.py",)),
    Mutant("a projection's labels are shuffled one by one", "analysis/lens/pca.py",
           "np.arange(len(coded)) if units is None else units", "np.arange(len(coded))", ("analysis/test_pca.py",)),
    Mutant("SFT takes a model under any settings", "training/sft/train.py",
           "    check_own_settings(job, model.about)\n", "", ("training/test_model_metadata.py",)),
    Mutant("McNemar's p of questions", "analysis/measures/intervention_effect.py",
           "    if units is not None and has_shared(units):\n        changes", "    if False:\n        changes",
           PICTURE_TESTS),
    Mutant("the picture stays in a blind evaluation", "generation/generator.py",
           'interventions=Interventions(image="hidden") if blind else None', "interventions=None",
           ("evaluation/test_evaluate.py",)),
    Mutant("the blind rule sees the test's answers", "evaluation/blind.py",
           'problem.benchmark == benchmark and problem.split == "train"', "problem.benchmark == benchmark",
           ("evaluation/test_blind.py",)),
    Mutant("the blind rule looks its own answers up", "evaluation/blind.py",
           "if part[problem.id] != number])", "])", ("evaluation/test_blind.py",)),
    Mutant("balanced plans are not", "benchmarks/generate.py",
           'data.plans == "balanced"', 'data.plans == "published"', ("benchmarks/test_generate.py",)),
    Mutant("a plan's shape without its revisits", "worlds/maze/plans.py",
           "len(cells) - len(set(cells))", "0", ("benchmarks/test_generate.py",)),
    Mutant("an added setting changes fingerprints", "config/section.py",
           "if not self._is_later_default(name)", "if True", ("benchmarks/test_generate.py",)),
    Mutant("the interval of an accuracy is too narrow", "evaluation/metrics.py",
           "interval=wilson(right, len(problems))", "interval=wilson(right * 4, len(problems) * 4)",
           ("evaluation/test_metrics.py",)),
    Mutant("Holm without its correction", "evaluation/statistics.py",
           "(len(p_values) - rank) * p_values[at]", "p_values[at]", ("evaluation/test_statistics.py",)),
)  # fmt: skip


class Copy:
    """A copy of the tree in which one file at a time differs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.yaml"), *ROOT.glob("*.md")):
            shutil.copy(file, folder / file.name)

    def survives(self, mutant: Mutant) -> bool:
        """Whether all related tests pass although the line is changed."""
        file = self._folder / "mirage_core" / mutant.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutant.old, mutant.new, 1), encoding="utf-8")
        try:
            return self._passes(mutant.tests)
        finally:
            file.write_text(text, encoding="utf-8")

    def _passes(self, tests: Sequence[str]) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
        environment = {**os.environ, "PYTHONPATH": str(self._folder), "OMP_NUM_THREADS": "1"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # files change faster than their times
        try:
            found = subprocess.run(
                [*command, *(f"tests/{name}" for name in tests)], cwd=self._folder, env=environment,
                capture_output=True, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False  # an endless loop was noticed
        if found.returncode not in (0, 1, 2):
            raise SystemExit(f"pytest ended with {found.returncode}: {found.stdout.decode()[-2000:]}")
        return found.returncode == 0


def stale(mutants: Sequence[Mutant]) -> list[str]:
    """Name the mutants whose line is no longer in its file exactly once, or whose tests are gone."""
    faults = []
    for mutant in mutants:
        count = (ROOT / "mirage_core" / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        missing = [name for name in mutant.tests if not (ROOT / "tests" / name).is_file()]
        if count != 1 or missing:
            faults.append(f"{mutant.what}: its line is {count} times in {mutant.file}, tests missing: {missing}")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants; returns 1 if one survives or no longer fits the code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose file or description has one of these words")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant to run")
    options = parser.parse_args(arguments)
    faults = stale(MUTANTS)
    if faults:
        print("\n".join(["mutants that no longer fit the code; correct bench/mutants.py:", *faults]), file=sys.stderr)
        return 1
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        for number, mutant in enumerate(MUTANTS):
            said = f"{mutant.file} {mutant.what}"
            if number < options.first or (options.words and not any(word in said for word in options.words)):
                continue
            begun = time.monotonic()
            lives = copy.survives(mutant)
            survivors += [said] if lives else []
            print(
                f"{number:2} {'SURVIVED' if lives else 'noticed '} {time.monotonic() - begun:5.0f} s  {said}",
                flush=True,
            )
    print(f"{len(survivors)} survivors" + "".join(f"\n  {each}" for each in survivors))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
