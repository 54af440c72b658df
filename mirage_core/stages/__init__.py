"""The steps of the road: one file a stage, the road itself, and how a stage is run. No Prefect, no torch at import."""
