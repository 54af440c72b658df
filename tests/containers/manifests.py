"""`python -m tests.containers.manifests`: the Kubernetes jobs of our template against Kubernetes' schemas, strictly.

Needs `pip install kubernetes-validate` (the schemas of every release, in a package). Unknown fields are refused.
"""

from __future__ import annotations

import sys

from tests.machines.test_job_templates import configuration

RELEASES = ("1.29", "1.33", "1.37")
JOBS = {
    "as it is": {},
    "without a GPU": {"gpus": 0, "cpu_request": "250m", "memory_request": "1Gi", "memory_limit": "6Gi"},
    "on chosen nodes": {"runtime_class": "nvidia", "node_selector": {"gpu": "h200"}, "service_account_name": "mirage"},
}


def main() -> int:
    """Validate every job under every release; a wrong field must be refused."""
    import kubernetes_validate

    for name, values in JOBS.items():
        job = configuration("kubernetes", **values).job_manifest
        job["metadata"]["name"] = "named-by-the-cluster"  # the validator knows no generateName
        for release in RELEASES:
            kubernetes_validate.validate(job, release, strict=True)
            print(f"{name}: valid in {release}")
    job["spec"]["template"]["spec"]["nodeSelectors"] = {}
    try:
        kubernetes_validate.validate(job, RELEASES[-1], strict=True)
    except kubernetes_validate.ValidationError as error:
        print(f"a wrong field is refused: {error.message}")
        return 0
    print("a wrong field was not refused", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
