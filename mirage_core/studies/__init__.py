"""Studies: grids of runs that share their stages, and the report that compares their cells."""
