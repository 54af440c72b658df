"""The prompts of spatial planning and spatial reasoning, and the endings that ask for a direct or a reasoned answer.

The texts are the published ones, character for character; they are part of the benchmark.
"""

from __future__ import annotations

from typing import Literal

from mirage_core.errors import InputError
from mirage_core.types import Variant

PromptForm = Literal["benchmark", "short"]

PLANNING = """\

As a professional maze solver, your task is to analyze a grid-based map and devise an action plan that \
enables a player to reach the goal from the starting point without falling into any holes, using the fewest \
possible moves.

## Game Setup
- The game presents a fully observable grid-based map.
- The player starts at a specified grid square, with the goal located elsewhere on the map.
- Each grid square is either safe or contains a hole.
- Your goal is to guide the player to the goal while avoiding holes.


## Moving Rules
- The action plan involves a series of moves: 'L' (left), 'R' (right), 'U' (up), or 'D' (down).
- Each move transfers the player to the adjacent square in that direction, provided it is a safe square. The \
player cannot move more than one square at a time.
- Moving off the edge of the map has no effect. The player will remain at the same square.
- DO NOT MOVE INTO A HOLE! Falling into a hole results in defeat.
- Locating at the grid containing the goal results in victory.

Here is the map: <image>

Please provide your action plan.
"""

REASONING = """\

As a professional maze solver, your task is to analyze a grid-based map and decide whether a given action \
plan enables a player to reach the goal from the starting point without falling into any holes.

## Setup
- The game presents a fully observable grid-based map.
- The player starts at a specified grid square, with the goal located elsewhere on the map.
- Each grid square is either safe or contains a hole.
- The provided action plan consists of a series of moves: 'LEFT' (left), 'RIGHT' (right), 'UP' (up), or \
'DOWN' (down).
- Each move transfers the player to the adjacent square in that direction, provided it is a safe square. The \
player cannot move more than one square at a time.
- Moving off the edge of the map has no effect. The player will remain at the same square.
- For each action plan and map, there are 3 possible outcomes:
    - A. Action Success.
    - B. Action Failed. Falling into a hole.
    - C. Action Failed. Player safe but faile to reach the goal.

Determine the outcome of the action plan based on the map, and provide your answer with A, B, or C.\x20

Here is the map: <image>

Full Action Plan: {plan}

Please provide your answer.
"""

_DIRECT = " The final answer MUST BE put in \\boxed{}."
_THINK = (
    " You FIRST think about the reasoning process as an internal monologue and then provide the final answer."
    " The reasoning process MUST BE enclosed within <think> </think> tags."
)
ENDINGS: dict[Variant, str] = {"cot": _THINK + _DIRECT, "direct": _DIRECT}


def with_ending(question: str, variant: Variant) -> str:
    """The question with the ending of a variant, which replaces a published ending."""
    if variant not in ENDINGS:
        raise InputError(f"unknown variant {variant!r}; expected one of {sorted(ENDINGS)}")
    for ending in ENDINGS.values():
        if question.endswith(ending):
            return question.removesuffix(ending) + ENDINGS[variant]
    return question.rstrip() + "\n" + ENDINGS[variant]


def check_form(form: str) -> None:
    """Raise InputError for a prompt form that does not exist."""
    if form not in ("benchmark", "short"):
        raise InputError(f"unknown prompt form {form!r}; expected 'benchmark' or 'short'")
