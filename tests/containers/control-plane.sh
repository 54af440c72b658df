#!/usr/bin/env bash
# Builds Kubernetes's API server and controllers from the source package that Debian 12 has of its client. No package index has them ready.
# As root: tests/containers/control-plane.sh [FOLDER] (/var/tmp/mirage-verify); an hour of one core, 4 GB while it builds.
set -euo pipefail

FOLDER=$(realpath -m "${1:-/var/tmp/mirage-verify}")
PROGRAMS=(kube-apiserver kube-controller-manager)
VERSION=1.20.5+really1.20.2-1.1+deb12u1
RELEASE=v1.20.2
BUILD=$FOLDER/kubernetes-build

missing=()
for program in "${PROGRAMS[@]}"; do
    [ -x "$FOLDER/kubernetes/$program" ] || missing+=("$program")
done
[ ${#missing[@]} -gt 0 ] || { echo "Kubernetes $RELEASE is in $FOLDER/kubernetes"; exit 0; }

apt-get install -y --no-install-recommends golang-go dpkg-dev etcd-server
command -v kubectl >/dev/null || apt-get install -y --no-install-recommends kubernetes-client
mkdir -p "$BUILD/src/k8s.io" "$FOLDER/kubernetes"
if [ ! -d "$BUILD/src/k8s.io/kubernetes" ]; then
    # The list of source packages is read for this call alone.
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$BUILD/debian.sources"
    sources=(-o "Dir::Etc::sourcelist=$BUILD/debian.sources" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$BUILD/lists" -o "Dir::Cache=$BUILD/cache")
    mkdir -p "$BUILD/lists/partial" "$BUILD/cache/archives/partial"
    (cd "$BUILD" && apt-get "${sources[@]}" update && apt-get "${sources[@]}" source "kubernetes=$VERSION")
    mv "$BUILD"/kubernetes-1.20.5* "$BUILD/src/k8s.io/kubernetes"
fi

# As a GOPATH: today's go refuses the old vendor folder as modules. Nothing is downloaded.
export GOPATH=$BUILD GO111MODULE=off GOPROXY=off GOCACHE=$BUILD/go-cache CGO_ENABLED=0
cd "$BUILD/src/k8s.io/kubernetes"
# What its Makefile generates before it compiles: the API's OpenAPI definitions. Their list of blemishes is not compared.
if [ ! -f pkg/generated/openapi/zz_generated.openapi.go ]; then
    echo "== OpenAPI definitions"
    mapfile -t folders < <(grep -rl --include=*.go '+k8s:openapi-gen=' cmd pkg plugin vendor/k8s.io/*/ \
        | grep -v -e /code-generator/ -e /sample-apiserver/ | xargs -n1 dirname | sed 's#^#k8s.io/kubernetes/#' | LC_ALL=C sort -u)
    go run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen -i "$(IFS=,; echo "${folders[*]}")" -O zz_generated.openapi \
        -p k8s.io/kubernetes/pkg/generated/openapi --output-base "$BUILD/src" \
        -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$BUILD/violations"
fi
for program in "${missing[@]}"; do
    echo "== $program"
    go build -p 2 -ldflags "-s -w" -o "$FOLDER/kubernetes/$program" "./cmd/$program"
done
rm -rf "$BUILD"
