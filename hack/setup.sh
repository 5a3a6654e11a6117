#!/usr/bin/env bash
# Installs what building (`setup.sh build`), testing (`setup.sh test`, the default) or the tests in a virtual machine
# (`setup.sh vm`) need and this machine lacks.
# Prints what it installs; does nothing where nothing is missing. Debian and its derivatives; elsewhere it names the tools.
set -euo pipefail
. "$(dirname "$0")/common.sh"

purpose=${1:-test}
packages=()

# need PACKAGE COMMAND...: PACKAGE is to be installed if the command does not succeed.
need() {
    local package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        packages+=("$package")
    fi
}

have() { command -v "$1"; }

check_rust() {
    have cargo >/dev/null || die "cargo is missing: install Rust (https://rustup.rs), then run this again"
}

check_build() {
    need gcc have cc
    need libc6-dev test -e /usr/include/stdio.h
    need make have make
}

check_python() {
    need python3 have python3
    need python3-venv python3 -c 'import ensurepip, venv'
}

check_test() {
    need mmdebstrap have mmdebstrap
    need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
    need systemd-container have systemd-nspawn
    need iproute2 have ip
    need util-linux have nsenter
    need binutils have strip
    need procps have pgrep
}

check_vm() {
    need qemu-system-x86 have qemu-system-x86_64
    need e2fsprogs have mke2fs
}

install_packages() {
    [ ${#packages[@]} -gt 0 ] || return 0
    have apt-get >/dev/null || die "missing here: ${packages[*]} (names of Debian packages); install them, then run this again"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo >/dev/null || die "missing: ${packages[*]}. Without sudo, as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing Debian packages: ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${packages[@]}" </dev/null
}

install_components() {
    local component
    for component in rustfmt clippy; do
        if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
            say "installing the Rust component $component"
            rustup component add "$component" || die "cargo ${component/rustfmt/fmt} is missing: install it beside cargo"
        fi
    done
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "installing cargo-nextest (the test runner)"
        cargo install cargo-nextest --locked
    fi
}

check_rust
check_build
case $purpose in
    build) install_packages ;;
    python) check_python; install_packages ;;
    test) check_python; check_test; install_packages; install_components ;;
    vm) check_python; check_test; check_vm; install_packages ;;
    *) die "usage: setup.sh [build|python|test|vm]" ;;
esac
