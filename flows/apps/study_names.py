""""""

from __future__ import annotations

DEPLOYED = ("ablation", "causal", "sweep-k", "sweep-gamma")
"""Studies with a deployment of their own; any other is given to the first as its parameter."""
