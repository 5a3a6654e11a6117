#!/usr/bin/env bash
# A cluster on this machine without systemd and without root, for development and tests.
#
#   local-test.sh install     install the built binaries into INSTALL_PREFIX
#   local-test.sh start       start the daemons; returns when a node is ready for tasks
#   local-test.sh stop        stop them; leaves no process behind
#   local-test.sh restart     stop, then start
#   local-test.sh status      what runs; exit code 0 if everything does, else 3
#   local-test.sh logs [-f]   the end of the logs; -f follows them
#   local-test.sh test        run tasks and the end-to-end tests against the running cluster
#   local-test.sh uninstall   stop, then remove what install made (data and logs are backed up by flmadm)
#   local-test.sh clean       stop and remove everything, data and logs too
#
# Every command may be repeated. Clusters with other INSTALL_PREFIX and port work side by side.
#   INSTALL_PREFIX   where (default /tmp/flame-dev)
#   FLAME_ENDPOINT   address of the cluster (default: as installed, else http://127.0.0.1:8080; the next port is
#                    the node link, and the one 1000 above serves metrics)
#   FLAME_BIN_DIR    built binaries (default: cargo's target folder, the newer of release and debug)
set -euo pipefail
. "$(dirname "$0")/common.sh"

PREFIX=${INSTALL_PREFIX:-/tmp/flame-dev}
DAEMONS=(flame-session-manager flame-node-agent)
START_SECONDS=30
STOP_SECONDS=15
# In the environment of every process of this cluster, and so how leftovers are told from other processes.
MARK=FLAME_LOCAL_CLUSTER
NOT_RUNNING=3 # exit code of `status`, as init scripts have it

case $PREFIX in
    /*) ;;
    *) die "INSTALL_PREFIX must be an absolute path, not '$PREFIX'" ;;
esac
PREFIX=$(realpath -m "$PREFIX")
RUN=$PREFIX/run
CONFIG=$PREFIX/conf/flame-cluster.yaml
# Says that this script made the installation, so that `clean` may remove the data that uninstall keeps.
MARKER=$PREFIX/.local-test

# The address that an installation was made for; nothing if there is none.
installed_endpoint() {
    [ -r "$CONFIG" ] || return 0
    sed -n '/^cluster:/,/^[a-z]/s/^ *endpoint: *"\{0,1\}\([^" ]*\).*/\1/p' "$CONFIG" | head -n 1
}

wanted=${FLAME_ENDPOINT:-}
FLAME_ENDPOINT=${wanted:-$(installed_endpoint)}
export FLAME_ENDPOINT=${FLAME_ENDPOINT:-http://127.0.0.1:8080}

# -- processes --------------------------------------------------------------------------------

installed() { [ -e "$CONFIG" ]; }

# Prints the path of an installed program.
program() {
    local folder
    for folder in bin sbin libexec; do
        if [ -x "$PREFIX/$folder/$1" ]; then
            printf '%s\n' "$PREFIX/$folder/$1"
            return
        fi
    done
    die "$1 is not installed below $PREFIX: run '$0 install'"
}

# Prints when a process started (clock ticks since boot); tells a pid that was reused from ours.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Prints the pid of a daemon of this cluster if it is alive and still our process.
daemon_pid() {
    local pid start
    [ -r "$RUN/$1.pid" ] || return 1
    read -r pid start <"$RUN/$1.pid" || return 1
    [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] || return 1
    [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f1)" != Z ] || return 1
    printf '%s\n' "$pid"
}

# Prints the pids of all processes that belong to this cluster, whoever started them in it.
cluster_pids() {
    grep -lzsx "$MARK=$PREFIX" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | while read -r pid; do
        [ "$pid" = "$$" ] || printf '%s\n' "$pid"
    done || true
}

# await SECONDS COMMAND...: repeats the command until it succeeds.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

gone() { ! daemon_pid "$1" >/dev/null; }

launch() {
    local name=$1 binary log=$PREFIX/logs/$1.log
    binary=$(program "$name")
    mkdir -p "$PREFIX/logs" "$PREFIX/work"
    # Its own session, so that Ctrl-C in this terminal does not reach it.
    (
        cd "$PREFIX/work"
        exec env "$MARK=$PREFIX" FLAME_HOME="$PREFIX" FLAME_SOCKET_DIR="$(socket_dir)" \
            setsid "$binary" --config "$CONFIG" </dev/null >>"$log" 2>&1 9>&-
    ) &
    local pid=$!
    printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$RUN/$name.pid"
}

# A unix socket's path has at most 107 bytes, so a long prefix gets a short folder elsewhere.
socket_dir() {
    local folder=$RUN/executors
    if [ ${#folder} -gt 60 ]; then
        folder=/tmp/flame-$(printf '%s' "$PREFIX" | sha256sum | cut -c1-12)
    fi
    mkdir -p "$folder"
    printf '%s\n' "$folder"
}

# -- commands ---------------------------------------------------------------------------------

cmd_install() {
    local from
    from=$(bin_dir)
    if daemons_running; then
        say "the cluster in $PREFIX runs: stopping it for the installation"
        cmd_stop
    fi
    "$from/flmadm" install --all --no-systemd --skip-build --force \
        --bin-dir "$from" --src-dir "$FLAME_ROOT" --prefix "$PREFIX" --endpoint "$FLAME_ENDPOINT"
    touch "$MARKER"
    say "installed into $PREFIX, endpoint $FLAME_ENDPOINT; next: $0 start"
}

daemons_running() {
    local name
    for name in "${DAEMONS[@]}"; do
        if daemon_pid "$name" >/dev/null; then return 0; fi
    done
    return 1
}

node_ready() {
    local listing
    listing=$("$(program flmctl)" list nodes -o json 2>/dev/null) && grep -q '"Ready"' <<<"$listing"
}

# All daemons are alive and a node takes tasks; gives up early when a daemon died.
cluster_ready() {
    local name
    for name in "${DAEMONS[@]}"; do
        daemon_pid "$name" >/dev/null || return 0
    done
    node_ready
}

cmd_start() {
    installed || die "nothing is installed in $PREFIX: run '$0 install' first"
    [ "$(installed_endpoint)" = "$FLAME_ENDPOINT" ] ||
        die "$PREFIX is installed for $(installed_endpoint), not $FLAME_ENDPOINT: run '$0 install' again"
    mkdir -p "$RUN"
    exec 9>"$RUN/lock"
    flock 9
    local name port missing=()
    for name in "${DAEMONS[@]}"; do
        daemon_pid "$name" >/dev/null || missing+=("$name")
    done
    port=$(endpoint_port "$FLAME_ENDPOINT")
    if [[ " ${missing[*]-} " == *" flame-session-manager "* ]]; then
        for taken in "$port" $((port + 1)); do
            ! port_taken "$taken" || die "port $taken is in use by another program: choose another FLAME_ENDPOINT"
        done
    fi
    for name in "${missing[@]}"; do launch "$name"; done
    await "$START_SECONDS" cluster_ready || fail_start "no node was ready within $START_SECONDS s"
    for name in "${DAEMONS[@]}"; do
        daemon_pid "$name" >/dev/null || fail_start "$name ended"
    done
    say "the cluster in $PREFIX is ready at $FLAME_ENDPOINT"
}

fail_start() {
    local name
    for name in "${DAEMONS[@]}"; do
        warn "--- the end of $PREFIX/logs/$name.log"
        tail -n 15 "$PREFIX/logs/$name.log" >&2 || true
    done
    exec 9>&-
    cmd_stop >&2
    die "start failed: $1"
}

cmd_stop() {
    local name pid index
    # The agent first, so that it can hand its work back in an orderly way.
    for ((index = ${#DAEMONS[@]} - 1; index >= 0; index--)); do
        name=${DAEMONS[index]}
        if pid=$(daemon_pid "$name"); then
            kill -TERM "$pid" 2>/dev/null || true
            if ! await "$STOP_SECONDS" gone "$name"; then
                warn "$name did not end within $STOP_SECONDS s: killing it"
                kill -KILL "$pid" 2>/dev/null || true
                await "$STOP_SECONDS" gone "$name" || die "$name ($pid) does not end"
            fi
            say "stopped $name"
        fi
        rm -f "$RUN/$name.pid"
    done
    end_leftovers
}

none_left() { [ -z "$(cluster_pids)" ]; }

end_leftovers() {
    local pids
    pids=$(cluster_pids)
    if [ -n "$pids" ]; then
        warn "processes that outlived the daemons, killed now:"
        # shellcheck disable=SC2086  # a list of numbers
        ps -o pid,args -p "$(tr '\n' ',' <<<"$pids" | sed 's/,$//')" >&2 || true
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        await "$STOP_SECONDS" none_left || die "processes do not end: $(cluster_pids)"
    fi
}

cmd_status() {
    local name pid code=0
    installed || { say "nothing is installed in $PREFIX"; return $NOT_RUNNING; }
    say "prefix $PREFIX, endpoint $FLAME_ENDPOINT"
    for name in "${DAEMONS[@]}"; do
        if pid=$(daemon_pid "$name"); then
            say "$name  running, pid $pid"
        else
            say "$name  not running"
            code=$NOT_RUNNING
        fi
    done
    if [ $code -eq 0 ]; then "$(program flmctl)" list nodes || code=$NOT_RUNNING; fi
    return $code
}

cmd_logs() {
    local files=() name
    for name in "${DAEMONS[@]}"; do
        if [ -e "$PREFIX/logs/$name.log" ]; then files+=("$PREFIX/logs/$name.log"); fi
    done
    [ ${#files[@]} -gt 0 ] || { say "no logs in $PREFIX/logs yet"; return 0; }
    if [ "${1:-}" = -f ]; then
        tail -n 50 -f "${files[@]}"
    else
        tail -n "${1:-50}" "${files[@]}"
    fi
}

cmd_test() {
    if ! cmd_status >/dev/null; then cmd_start; fi
    "$(program flmping)" -t 100
    FLAME_E2E_PREFIX=$PREFIX "$FLAME_ROOT/hack/e2e.sh" local "$@"
}

cmd_uninstall() {
    remove_installation
}

remove_installation() {
    cmd_stop
    if installed; then
        local flmadm=$PREFIX/bin/flmadm
        if [ ! -x "$flmadm" ]; then flmadm=$(bin_dir)/flmadm; fi
        "$flmadm" uninstall --prefix "$PREFIX" --force "$@"
    else
        say "nothing is installed in $PREFIX"
    fi
    remove_runtime
}

# What this script itself made below the prefix.
remove_runtime() {
    rm -rf "$(socket_dir)" "$RUN"
    if [ "$(find "$PREFIX" -mindepth 1 2>/dev/null)" = "$MARKER" ]; then rm "$MARKER"; fi
    rmdir "$PREFIX" 2>/dev/null || true
}

cmd_clean() {
    remove_installation --no-backup
    if [ -e "$MARKER" ]; then
        rm -rf "$PREFIX/logs" "$PREFIX/work" "$PREFIX/data" "$PREFIX/conf" "$MARKER"
        rmdir "$PREFIX" 2>/dev/null || true
    fi
    if [ -e "$PREFIX" ]; then
        warn "kept, because it is not ours: $(find "$PREFIX" -mindepth 1 -maxdepth 1 | tr '\n' ' ')"
    fi
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    install | start | stop | status | logs | test | uninstall | clean) "cmd_$command" "$@" ;;
    restart) cmd_stop && cmd_start ;;
    help | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
    *) die "unknown command '$command'; see '$0 help'" ;;
esac
