"""One file a stage, or a family of stages that differ by settings only."""
