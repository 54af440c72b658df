"""What must hold in a store at any moment when nobody writes to it: read byte by byte, from outside."""

from __future__ import annotations

from mirage_core.errors import MirageError
from mirage_core.pipeline.run_record import load_record
from mirage_core.store import Store
from mirage_core.store.artifact_folder import all_faults, read_manifest
from mirage_core.store.manifest import MANIFEST
from tests.soak.counts import Tally

LOST = "artifacts lost or changed"
HALF = "artifacts half visible"
TORN = "checkpoints torn"
RECORDS = "run records torn"
ACCUSED = "good artifacts put into quarantine"
WRONGS = (LOST, HALF, TORN, RECORDS, ACCUSED)


def audit(store: Store, known: dict[str, str], tally: Tally, when: str) -> None:
    """Compare the store with what was complete before (``known``: path to digest, which is brought up to date)."""
    there = {artifact.path: artifact for artifact in store.list()}
    for path, digest in known.items():
        if path not in there:
            tally.fault(LOST, f"{when}: {path} is not listed any more")
        elif there[path].digest != digest:
            tally.fault(LOST, f"{when}: {path} had the digest {digest[:12]}, now {there[path].digest[:12]}")
    for path, artifact in there.items():
        tally.count("artifacts read again")
        faults = store.verify(artifact)
        if faults:
            tally.fault(LOST if path in known else HALF, f"{when}: {path}: {faults}")
    for path in sorted(_manifests(store, 2) - set(there)):
        tally.fault(HALF, f"{when}: {path} has a manifest, and is not listed")
    _audit_checkpoints(store, tally, when)
    _audit_records(store, tally, when)
    for name in store.backend.sizes("quarantine"):
        tally.fault(ACCUSED, f"{when}: {name}")
    known.update({path: artifact.digest for path, artifact in there.items()})


def _audit_checkpoints(store: Store, tally: Tally, when: str) -> None:
    for path in sorted(_checkpoints(store)):
        tally.count("checkpoints read again")
        try:
            faults = all_faults(store.backend, path, read_manifest(store.backend, path))
        except (MirageError, FileNotFoundError) as error:
            faults = [str(error)]
        if faults:
            tally.fault(TORN, f"{when}: {path}: {faults}")


def _audit_records(store: Store, tally: Tally, when: str) -> None:
    for name in store.names("runs/"):
        try:
            load_record(store, name)
        except MirageError as error:
            tally.fault(RECORDS, f"{when}: {name}: {error}")


def checkpoints_left(store: Store) -> list[str]:
    """The checkpoints that the store shows."""
    return sorted(_checkpoints(store))


def _checkpoints(store: Store) -> set[str]:
    names = store.backend.sizes("checkpoints")
    return {f"checkpoints/{n.removesuffix(f'/{MANIFEST}')}" for n in names if n.endswith(f"/{MANIFEST}")}


def _manifests(store: Store, depth: int) -> set[str]:
    """The paths of everything that has a manifest and looks like an artifact."""
    fingerprints = {
        name.removesuffix(f"/{MANIFEST}") for name in store.backend.sizes("") if name.endswith(f"/{MANIFEST}")
    }
    beside = ("checkpoints/", "quarantine/", "runs/")
    return {path for path in fingerprints if path.count("/") == depth - 1 and not path.startswith(beside)}
