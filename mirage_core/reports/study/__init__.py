"""The report of a study: its cells side by side, intervals over seeds, accuracy against causal effect."""
