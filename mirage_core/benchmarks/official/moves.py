"""The official readers of plans: Mirage's and VSP's."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.worlds.maze import MOVES, Maze, walk

_BOX = "\\boxed{"
_MARKERS = ("Action plan: ", "Action Plan: ")
_MOST_STEPS = 100
"""FrozenLake ends an episode there; no reward is paid."""


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """Whether a plan is right, and the moves that were read, None if none were."""

    correct: bool
    moves: str | None


def mirage(output: str, maze: Maze) -> PlanVerdict:
    """Mirage's src/task.py: the last box in upper case, its letters U, D, L, R; right if the FINAL cell is the goal.

    A last box that is never closed is none, whatever stood in an earlier one.
    """
    moves = "".join(letter for letter in _last_box(output).upper() if letter in MOVES)
    return PlanVerdict(bool(moves) and walk(maze, moves).outcome == "success", moves or None)


def _last_box(output: str) -> str:
    begin = output.rfind(_BOX)
    depth = 1
    for at in range(begin + len(_BOX), len(output) if begin >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(output[at], 0)
        if depth == 0:
            return output[begin + len(_BOX) : at]
    return ""


def vsp(output: str, maze: Maze) -> PlanVerdict:
    """VSP's maze/task-main/eval.py: all that follows the first "Action plan: ", split at commas, each part one move.

    The first hole or goal entered decides. A part that is not exactly U, D, L or R, quotes and full stops aside, makes
    the plan wrong if the walk gets that far. Without a marker the authors' code reads from character 12 on.
    """
    parts = [part.translate(_DROPPED).strip() for part in _after_marker(output).split(",")]
    valid = next((at for at, part in enumerate(parts) if part not in MOVES or len(part) != 1), len(parts))
    moves = "".join(parts[:valid])[:_MOST_STEPS]
    if valid < len(parts) and (not moves or walk(maze, moves, stop_at_goal=True).outcome == "safe"):
        return PlanVerdict(False, None)
    return PlanVerdict(walk(maze, moves, stop_at_goal=True).outcome == "success", moves)


_DROPPED = str.maketrans("", "", "\"'\n.")


def has_marker(output: str) -> bool:
    """Whether an answer has the marker that VSP's own prompt asks for."""
    return any(marker in output for marker in _MARKERS)


def _after_marker(output: str) -> str:
    begin = next((at for at in map(output.find, _MARKERS) if at >= 0), -1)
    return output[begin + len(_MARKERS[0]) :]
