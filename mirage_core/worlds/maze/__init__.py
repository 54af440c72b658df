"""The frozen-lake maze: its rules, random maps and plans, its images, and reading a map back from an image."""

from mirage_core.worlds.maze.art import Player, picture_bytes, render
from mirage_core.worlds.maze.plans import Shape, random_plan, random_plan_of, random_shape, shape_of
from mirage_core.worlds.maze.reading import read_maze
from mirage_core.worlds.maze.rules import (
    GOAL,
    HOLE,
    MOVES,
    SAFE,
    START,
    Cell,
    Maze,
    Outcome,
    Walk,
    canonical,
    cells_by_distance,
    maze_from_rows,
    orientations,
    random_maze,
    shortest_path,
    step,
    walk,
)

__all__ = [
    "GOAL",
    "HOLE",
    "MOVES",
    "SAFE",
    "START",
    "Cell",
    "Maze",
    "Outcome",
    "Player",
    "Shape",
    "Walk",
    "canonical",
    "cells_by_distance",
    "maze_from_rows",
    "orientations",
    "picture_bytes",
    "random_maze",
    "random_plan",
    "random_plan_of",
    "random_shape",
    "read_maze",
    "render",
    "shape_of",
    "shortest_path",
    "step",
    "walk",
]
