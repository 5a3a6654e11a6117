#!/usr/bin/env bash
# Runs the end-to-end tests in a Python environment of their own.
#
#   e2e.sh [all]     everything: clusters of plain processes, and real systemd nodes (needs root: uses sudo)
#   e2e.sh local     only the tests that need no systemd and no root
#   e2e.sh python    only the tests of the published Python client against a cluster of plain processes
#
# Further arguments go to pytest, as `e2e.sh all -k wordcount -x`. Binaries: FLAME_BIN_DIR, else cargo's target folder.
set -euo pipefail
. "$(dirname "$0")/common.sh"

what=${1:-all}
[ $# -eq 0 ] || shift
FLAME_BIN_DIR=$(bin_dir)
export FLAME_BIN_DIR
FLAME_E2E_PYTHON=$("$FLAME_ROOT/hack/python-env.sh" venv)

as_root=()
case $what in
    all)
        selection=()
        if [ "$(id -u)" -ne 0 ]; then
            if ! command -v sudo >/dev/null || ! sudo -v; then
                die "the tests on systemd nodes need root: run 'make e2e' as root, or install and allow sudo;" \
                    "'make e2e-local' runs those that do not need it"
            fi
            as_root=(sudo "--preserve-env=PATH,HOME,CI,FLAME_BIN_DIR,FLAME_NODE_SITE,FLAME_TEST_CACHE,FLAME_E2E_PREFIX,FLAME_SOAK_SECONDS,FLAME_CHAOS_SEED,FLAME_UNIT_STARTS")
        fi
        FLAME_NODE_SITE=$("$FLAME_ROOT/hack/python-env.sh" site)
        export FLAME_NODE_SITE
        ;;
    local) selection=(-m "not nodes") ;;
    python) selection=(-m "not nodes" -k "flamepy or wordcount") ;;
    *) die "usage: e2e.sh [all|local|python] [pytest arguments]" ;;
esac

cd "$FLAME_ROOT/e2e"
# No bytecode and no pytest cache: a run leaves nothing in the clone.
exec "${as_root[@]}" env PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    "$FLAME_E2E_PYTHON" -m pytest -p no:cacheprovider "${selection[@]}" "$@" </dev/null
