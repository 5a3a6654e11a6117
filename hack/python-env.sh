#!/usr/bin/env bash
# Makes the Python environments of the tests in the cache, if they are not there, and prints their paths.
#   python-env.sh venv   a virtual environment with e2e/requirements.txt: prints its python
#   python-env.sh site   a folder with the same flamepy for Debian's python 3.11 of the nodes: prints the folder
set -euo pipefail
. "$(dirname "$0")/common.sh"

requirements=$FLAME_ROOT/e2e/requirements.txt
node_python=3.11
mkdir -p "$FLAME_TEST_CACHE/python"

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "the tests need Python 3.10 or newer; set PYTHON"

# make_once FOLDER FUNCTION: runs the function unless the folder is complete; one process at a time.
make_once() {
    local folder=$1
    (
        flock 9
        if [ ! -e "$folder/.complete" ]; then
            rm -rf "$folder"
            "$2" "$folder" >&2
            touch "$folder/.complete"
        fi
    ) 9>"$folder.lock"
}

make_venv() {
    say "making a Python environment in $1"
    "$python" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
}

make_site() {
    say "fetching flamepy for the nodes into $1"
    "$("$0" venv)" -m pip install --quiet --disable-pip-version-check --target "$1" \
        --python-version "$node_python" --implementation cp --only-binary=:all: --constraint "$requirements" flamepy
}

key() { printf '%s' "$1" | cat - "$requirements" | sha256sum | cut -c1-12; }

case ${1:-} in
    venv)
        folder=$FLAME_TEST_CACHE/python/venv-$(key "$("$python" -c 'import sys; print(sys.executable, sys.version)')")
        make_once "$folder" make_venv
        say "$folder/bin/python"
        ;;
    site)
        folder=$FLAME_TEST_CACHE/python/site-$(key "$node_python")
        make_once "$folder" make_site
        say "$folder"
        ;;
    *) die "usage: python-env.sh venv|site" ;;
esac
