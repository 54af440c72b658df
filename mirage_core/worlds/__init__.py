"""The rules of puzzles, shared by synthesis and scorers."""
