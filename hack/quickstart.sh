#!/usr/bin/env bash
# From a fresh clone to tasks that really ran: builds, installs into a private folder without root, starts a
# cluster on free ports, runs 10,000 tasks and a word count, and removes everything again.
set -euo pipefail
. "$(dirname "$0")/common.sh"

TASKS=${TASKS:-10000}
TEXTS=${TEXTS:-/usr/share/common-licenses}

headline() { printf '\n== %s\n' "$*"; }

headline "tools"
"$FLAME_ROOT/hack/setup.sh" build

headline "build (release; some minutes the first time)"
(cd "$FLAME_ROOT" && cargo build --release --workspace --locked)

INSTALL_PREFIX=$(mktemp -d "${TMPDIR:-/tmp}/flame-quickstart-XXXXXX")
FLAME_ENDPOINT=http://127.0.0.1:$(free_port)
FLAME_BIN_DIR=$(target_dir)/release
export INSTALL_PREFIX FLAME_ENDPOINT FLAME_BIN_DIR
cluster=$FLAME_ROOT/hack/local-test.sh

finish() {
    local code=$?
    trap - EXIT
    headline "removing the cluster"
    "$cluster" clean || code=1
    rm -rf "$INSTALL_PREFIX"
    if [ "$code" -eq 0 ]; then
        headline "result: $TASKS flmping tasks through session manager, node agent and service process"
        say "$result"
    else
        warn "quickstart failed (exit code $code)"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

headline "install into $INSTALL_PREFIX"
"$cluster" install
headline "start"
"$cluster" start

headline "flmping: $TASKS tasks"
result=$("$INSTALL_PREFIX/bin/flmping" -t "$TASKS" -p)
say "$result"

headline "word count of $TEXTS, one task per file, Rust service"
wordcount() { "$FLAME_BIN_DIR/wordcount" "$TEXTS" "$@"; }
wordcount

if "$FLAME_ROOT/hack/setup.sh" python && python=$("$FLAME_ROOT/hack/python-env.sh" venv); then
    headline "the same with a Python service (flamepy from PyPI)"
    wordcount --application wordcount-py --register-command "$python" \
        --script "$FLAME_ROOT/examples/wordcount/wordcount_service.py"
else
    headline "the Python service is left out: flamepy could not be installed"
fi
headline "wc says"
find -L "$TEXTS" -type f -exec cat {} + | LC_ALL=C wc
