"""Studies: grids of runs that share what they can, and the report that sets their cells side by side."""
