#!/usr/bin/env bash
# A cluster on this machine without systemd and without root, for tests: `flmadm dev` with nobody who starts daemons
# again, so that a test can kill them. For development use `flmadm dev` itself (docs/dev.md).
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
NOT_RUNNING=3 # exit code of `status`, as init scripts have it

case $PREFIX in
    /*) ;;
    *) die "INSTALL_PREFIX must be an absolute path, not '$PREFIX'" ;;
esac
PREFIX=$(realpath -m "$PREFIX")

installed() { [ -e "$PREFIX/conf/flame-cluster.yaml" ]; }

# The installed flmadm, else the one that was built.
flmadm() {
    local program=$PREFIX/sbin/flmadm
    [ -x "$program" ] || program=$(bin_dir)/flmadm
    "$program" "$@"
}

dev() { flmadm dev "$1" --prefix "$PREFIX" "${@:2}"; }

cmd_install() {
    local from
    from=$(bin_dir)
    cmd_stop
    "$from/flmadm" install --all --no-systemd --skip-build --force --bin-dir "$from" --src-dir "$FLAME_ROOT" \
        --prefix "$PREFIX" ${FLAME_ENDPOINT:+--endpoint "$FLAME_ENDPOINT"}
    say "installed into $PREFIX; next: $0 start"
}

cmd_start() { dev up --no-install --no-supervisor ${FLAME_ENDPOINT:+--endpoint "$FLAME_ENDPOINT"}; }

cmd_stop() { dev down; }

cmd_status() {
    installed || { say "nothing is installed in $PREFIX"; return $NOT_RUNNING; }
    dev status || return $NOT_RUNNING
}

cmd_logs() {
    case ${1:-} in
        '') dev logs ;;
        -f) dev logs --follow ;;
        *) dev logs --lines "$1" ;;
    esac
}

cmd_test() {
    cmd_status >/dev/null 2>&1 || cmd_start
    FLAME_ENDPOINT=$(dev status --output json | sed -n 's/^ *"endpoint": "\(.*\)",$/\1/p') \
        "$PREFIX/bin/flmping" -t 100
    FLAME_E2E_PREFIX=$PREFIX "$FLAME_ROOT/hack/e2e.sh" local "$@"
}

cmd_uninstall() {
    cmd_stop
    # With `run` in it the prefix would stay.
    rm -rf "$PREFIX/run"
    flmadm uninstall --prefix "$PREFIX" --force
}

cmd_clean() { dev down --clean; }

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    install | start | stop | status | logs | test | uninstall | clean) "cmd_$command" "$@" ;;
    restart) cmd_stop && cmd_start ;;
    help | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
    *) die "unknown command '$command'; see '$0 help'" ;;
esac
