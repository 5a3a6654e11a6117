#!/usr/bin/env bash
# Runs the tests that need a machine with cgroup v2 and a kernel of its own (needs root to make its disk: uses sudo).
# Arguments go to pytest. Binaries: FLAME_BIN_DIR, else cargo's target folder. FLAME_VM_ACCEL=kvm is faster where it works.
set -euo pipefail
. "$(dirname "$0")/../common.sh"

FLAME_BIN_DIR=$(bin_dir)
export FLAME_BIN_DIR
python=$("$FLAME_ROOT/hack/python-env.sh" venv)

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -v; then
        die "making the machine's disk needs root: run 'make e2e-vm' as root, or install and allow sudo"
    fi
    as_root=(sudo "--preserve-env=PATH,HOME,FLAME_BIN_DIR,FLAME_TEST_CACHE,FLAME_VM_ACCEL")
fi

cd "$FLAME_ROOT/e2e"
# No bytecode and no pytest cache: a run leaves nothing in the clone.
exec "${as_root[@]}" env PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    "$python" -m pytest -p no:cacheprovider -s vm/check_limits.py "$@" </dev/null
