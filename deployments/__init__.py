"""What prefect.yaml needs beyond itself: the local stack of a Prefect server and a worker."""
