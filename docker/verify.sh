#!/usr/bin/env bash
# Builds the images and runs them on a Debian machine that has neither Docker nor an image registry. As root:
#   apt-get install --no-install-recommends buildah podman runc debootstrap
#   docker/verify.sh [FOLDER]
# The base image is made from Debian's packages, under the name that the Dockerfiles ask for. FOLDER (/var/tmp/mirage-verify,
# 15 GB) keeps it and the layers, so a second call takes a minute; remove it when you are done. pip's settings
# (pip config list) become the build's arguments. PARTS (cpu stand-ins gpu) says what to build.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
FOLDER=$(realpath -m "${1:-/var/tmp/mirage-verify}")
BASE=docker.io/library/python:3.11-slim-bookworm
STORAGE=(--root "$FOLDER/containers" --runroot "$FOLDER/runroot" --storage-driver overlay)
CONTEXT=$FOLDER/context
LOGS=$FOLDER/logs

say() { echo "== $*"; }

fail() {
    echo "docker/verify.sh: $1" >&2
    exit 1
}

# buildah's and podman's state is in FOLDER, apart from whatever else they have on this machine.
build() { buildah "${STORAGE[@]}" "$@"; }
containers() { podman "${STORAGE[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }

check_machine() {
    local program
    [ "$(id -u)" -eq 0 ] || fail "only root can make a base image and run containers without an engine"
    for program in buildah podman runc debootstrap; do
        command -v "$program" >/dev/null || fail "no $program. Install it: apt-get install --no-install-recommends buildah podman runc debootstrap"
    done
    mkdir -p "$FOLDER" "$LOGS"
    PIP_SETTINGS=$(python3 -m pip config list)
}

# Debian with Python 3.11 as /usr/local/bin/python: what the Dockerfiles use of python:3.11-slim-bookworm.
make_base() {
    build inspect --type image "$BASE" >/dev/null 2>&1 && { say "base image: $BASE is here"; return; }
    say "base image: $BASE from Debian's packages (ten minutes)"
    rm -rf "$FOLDER/rootfs.partial"
    if [ ! -d "$FOLDER/rootfs" ]; then
        # Python by apt-get: debootstrap does not know packages that stand for others (python3.11-distutils).
        { debootstrap --variant=minbase bookworm "$FOLDER/rootfs.partial" ${MIRROR:+"$MIRROR"} \
            && DEBIAN_FRONTEND=noninteractive chroot "$FOLDER/rootfs.partial" apt-get install -y --no-install-recommends \
                python3.11 python3.11-venv ca-certificates; } >"$LOGS/debootstrap.log" 2>&1 \
            || fail "debootstrap failed: $LOGS/debootstrap.log"
        mv "$FOLDER/rootfs.partial" "$FOLDER/rootfs"
    fi
    ln -sf /usr/bin/python3.11 "$FOLDER/rootfs/usr/local/bin/python"
    ln -sf /usr/bin/python3.11 "$FOLDER/rootfs/usr/local/bin/python3"
    rm -rf "$FOLDER"/rootfs/var/cache/apt/archives/*.deb "$FOLDER"/rootfs/var/lib/apt/lists/*
    tar -C "$FOLDER/rootfs" -c . | containers import - "$BASE" >/dev/null
    rm -rf "$FOLDER/rootfs"
}

# A setting of this machine's pip, from its environment or its files; nothing where it has none.
pip_setting() { sed -n "s/^\(:env:\|global\)\.$1='\(.*\)'$/\2/p" <<<"$PIP_SETTINGS" | head -n 1; }

# The build's arguments, one a line; torch comes from the same index as the rest, unless TORCH_INDEX names another.
# Folders of packages on this machine, and its certificates, are mounted.
build_arguments() {
    local index extra links word folder
    index=$(pip_setting index-url)
    extra=$(pip_setting extra-index-url)
    links=$(pip_setting find-links)
    [ -z "$index" ] || printf -- '--build-arg\nPIP_INDEX_URL=%s\n' "$index"
    [ -z "$extra" ] || printf -- '--build-arg\nPIP_EXTRA_INDEX_URL=%s\n' "$extra"
    [ -z "$links" ] || printf -- '--build-arg\nPIP_FIND_LINKS=%s\n' "$links"
    for word in $index $extra $links; do
        folder=${word#file://}
        folder=${folder%/simple}
        [ ! -d "$folder" ] || printf -- '--volume\n%s:%s:ro\n' "$folder" "$folder"
    done
    printf -- '--volume\n%s:%s:ro\n' /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
    printf -- '--build-arg\nTORCH_INDEX=%s\n' "${TORCH_INDEX-$index}"
}

# The files git knows of, as they are now: nothing that lies about in the checkout reaches a build.
copy_context() {
    rm -rf "$CONTEXT"
    mkdir -p "$CONTEXT"
    (cd "$ROOT" && git ls-files -z | tar --null --files-from - -c --ignore-failed-read) | tar -x -C "$CONTEXT"
}

# build_image NAME TAG DOCKERFILE CONTEXT [ARGUMENT...]; its log is LOGS/NAME.log
build_image() {
    local name=$1 tag=$2 file=$3 context=$4 arguments start=$SECONDS
    shift 4
    mapfile -t arguments < <(build_arguments)
    build bud --isolation chroot --layers --pull-never "${arguments[@]}" "$@" --file "$file" --tag "$tag" "$context" \
        >"$LOGS/$name.log" 2>&1 || fail "$file does not build: $LOGS/$name.log"
    say "$tag: built in $((SECONDS - start)) s"
}

build_mirage() { build_image "$1" "localhost/mirage:$1" "$CONTEXT/docker/$1.Dockerfile" "$CONTEXT" "${@:2}"; }

# build_stand_in NAME TAG: a service of compose.yaml that comes from a registry, from the packages of Debian and PyPI.
build_stand_in() { build_image "$1" "$2" "$CONTEXT/docker/stand-ins/$1.Dockerfile" "$CONTEXT/docker/stand-ins"; }

report_layers() {
    say "mirage:$1: $(containers image inspect --format '{{.Size}}' "localhost/mirage:$1" | numfmt --to=si)B, its layers:"
    containers history --no-trunc --format '{{.Size}}\t{{.CreatedBy}}' "localhost/mirage:$1" | sed 's/|.*\/bin\/sh -c/RUN/' | cut -c1-110 | grep -v '^0 B'
}

# run_image IMAGE COMMAND...: as compose.yaml runs it, with less: no network, nothing to write to but /data and /tmp.
# podman's own limits are above what a machine may allow its root.
run_image() {
    local image=$1
    shift
    containers run --rm --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --network none --read-only --read-only-tmpfs \
        --cap-drop all --security-opt no-new-privileges "localhost/mirage:$image" "$@"
}

check_contents() {
    local found
    say "mirage:$1: no tools of the build, no tests, no cache"
    found=$(run_image "$1" sh -euc '
        test "$(id -u):$(id -g)" = 10001:10001
        for program in pip make git pytest mypy ruff uv '"$2"'; do command -v $program || true; done
        python - <<END
from importlib.metadata import distributions
tests = {"pytest", "mypy", "ruff", "hypothesis", "playwright", "boto3", "swift", "import-linter", "pip"}
print(*sorted(tests & {d.name for d in distributions()}), end="")
END
        find / -xdev \( -path "*/.cache/pip" -o -path "/var/lib/apt/lists/*_Packages*" -o -path "/var/cache/apt/archives/*.deb" \
            -o -path "/opt/mirage/tests" -o -path "/opt/mirage/build" -o -path "/opt/mirage/*.egg-info" \) 2>/dev/null || true
    ')
    [ -z "$found" ] || fail "mirage:$1 holds what it does not need: $found"
}

check_runs() {
    say "mirage:$1: mirage --help, mirage run --recipe micro --direct"
    run_image "$1" mirage --help >"$LOGS/$1-help.log" 2>&1 || fail "mirage --help: $LOGS/$1-help.log"
    run_image "$1" mirage run --recipe micro --direct >"$LOGS/$1-run.log" 2>&1 || fail "the run failed: $LOGS/$1-run.log"
    tail -n 12 "$LOGS/$1-run.log"
}

# A changed line of code: the layers of the dependencies are the same, and no pip installed one of them.
check_change_of_code() {
    echo "# changed" >>"$CONTEXT/mirage_core/errors.py"
    build_image changed localhost/mirage:changed "$CONTEXT/docker/$1.Dockerfile" "$CONTEXT"
    ! grep -q 'Collecting torch' "$LOGS/changed.log" || fail "a change of code installs torch again: $LOGS/changed.log"
    [ "$(layers "$1")" = "$(layers changed)" ] || fail "a change of code changes the layers of the dependencies"
    build rmi localhost/mirage:changed >/dev/null
    say "mirage:$1: a change of code keeps the layers of base and dependencies"
}

# The layers up to the one of the dependencies: the base, the user, /opt/venv.
layers() { containers image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' "localhost/mirage:$1" | head -n 3; }

verify_cpu() {
    build_mirage cpu
    report_layers cpu
    check_contents cpu "gcc g++ cc"
    check_runs cpu
    check_change_of_code cpu
}

# On Debian's base, with the torch of the index above: everything but CUDA itself.
verify_gpu() {
    build_mirage gpu --build-arg "CUDA=$BASE" --build-arg PYTHON=python3.11
    report_layers gpu
    check_contents gpu ""
    check_runs gpu
}

build_stand_ins() {
    build_stand_in postgres docker.io/library/postgres:17
    build_stand_in seaweedfs docker.io/chrislusf/seaweedfs:4.43
}

# A function, so that a change of this file changes no call that runs.
main() {
    local part
    check_machine
    make_base
    for part in ${PARTS:-cpu stand-ins gpu}; do
        copy_context
        case $part in
            cpu) verify_cpu ;;
            gpu) verify_gpu ;;
            stand-ins) build_stand_ins ;;
            *) fail "PARTS has '$part', expected cpu, stand-ins or gpu" ;;
        esac
    done
    say "works: ${PARTS:-cpu stand-ins gpu}"
}

main
exit
