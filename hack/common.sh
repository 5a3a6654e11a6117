# Shared by the scripts of this folder: where things lie, and the few helpers that several of them need.
# To be sourced by bash.
# shellcheck shell=bash

FLAME_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that tests keep between runs (Debian tree, Python environments) lies outside the clone.
export FLAME_TEST_CACHE=${FLAME_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flame-test}

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Prints cargo's target folder, wherever CARGO_TARGET_DIR or a cargo configuration put it.
target_dir() {
    if [ -n "${CARGO_TARGET_DIR:-}" ]; then
        case $CARGO_TARGET_DIR in
            /*) printf '%s\n' "$CARGO_TARGET_DIR" ;;
            *) printf '%s\n' "$FLAME_ROOT/$CARGO_TARGET_DIR" ;;
        esac
        return
    fi
    cargo metadata --manifest-path "$FLAME_ROOT/Cargo.toml" --format-version 1 --no-deps --offline 2>/dev/null |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' | grep . || printf '%s\n' "$FLAME_ROOT/target"
}

# Prints the folder with built binaries: FLAME_BIN_DIR, else the newer of the release and the debug build.
bin_dir() {
    if [ -n "${FLAME_BIN_DIR:-}" ]; then
        printf '%s\n' "$FLAME_BIN_DIR"
        return
    fi
    local target newest=
    target=$(target_dir)
    for profile in release debug; do
        if [ -x "$target/$profile/flmadm" ]; then
            if [ -z "$newest" ] || [ "$target/$profile/flmadm" -nt "$newest/flmadm" ]; then
                newest=$target/$profile
            fi
        fi
    done
    [ -n "$newest" ] || die "no built binaries in $target: run 'make build' first, or set FLAME_BIN_DIR"
    printf '%s\n' "$newest"
}

# Prints host and port of an endpoint URL; the port is 8080 if the URL names none.
endpoint_host() { local rest=${1#*://}; rest=${rest%%/*}; printf '%s\n' "${rest%:*}"; }
endpoint_port() {
    local rest=${1#*://}
    rest=${rest%%/*}
    case $rest in *:*) printf '%s\n' "${rest##*:}" ;; *) printf '8080\n' ;; esac
}

# Whether something accepts connections on this port of the loopback address.
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a port P so that P (frontend), P+1 (node link) and P+1000 (metrics) are free: in every other
# thousand, so that the metrics of one cluster are never the frontend of another.
free_port() {
    local port try
    for try in $(seq 1 200); do
        port=$((20000 + (RANDOM % 5) * 2000 + (RANDOM % 500) * 2))
        if ! port_taken "$port" && ! port_taken $((port + 1)) && ! port_taken $((port + 1000)); then
            printf '%s\n' "$port"
            return
        fi
    done
    die "no free ports found after $try tries"
}
