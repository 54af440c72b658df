"""The pipeline: its stages, which stage follows which, how a stage is run, records of runs. No Prefect, no torch."""
