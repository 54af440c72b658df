#!/usr/bin/env bash
# What `make e2e` needs from Debian: Chromium for the browser tests, PostgreSQL for the server tests.
# Installs what is missing and nothing else, asks nothing. Everything else comes with `make setup`.
set -euo pipefail

fail() {
    echo "make e2e: $1" >&2
    exit 1
}

has_chromium() { command -v chromium >/dev/null; }

# Debian keeps PostgreSQL's programs off the PATH.
has_postgres() {
    compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || command -v initdb >/dev/null
}

missing=()
has_chromium || missing+=(chromium)
has_postgres || missing+=(postgresql)
if [ ${#missing[@]} -eq 0 ]; then
    echo "make e2e: chromium and PostgreSQL are here"
    exit 0
fi

install="apt-get install --no-install-recommends ${missing[*]}"
command -v apt-get >/dev/null || fail "${missing[*]} missing, and there is no apt-get here (neither Debian nor Ubuntu).
Install a chromium and PostgreSQL 14 or later (initdb, postgres, psql) so that they are on the PATH. Then: make e2e"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || fail "${missing[*]} missing, and only root may install. Run: sudo $install
Then: make e2e"
    as_root=(sudo -n)
fi

echo "make e2e: $install"
"${as_root[@]}" apt-get update -qq || fail "apt-get could not read its package lists; its message is above"
# `env`, since sudo drops the environment.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    || fail "apt-get could not install ${missing[*]}; its message is above"

has_chromium || fail "apt-get installed chromium, but there is no chromium on the PATH: $PATH"
has_postgres || fail "apt-get installed postgresql, but there is no /usr/lib/postgresql/*/bin/initdb"
