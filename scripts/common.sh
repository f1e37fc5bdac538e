# shellcheck shell=bash
# Sourced by the scripts beside it.

export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The first Python of 3.11 or newer; PYTHON names one.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
        [ "$candidate" != "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python of 3.11 or newer."
    done
    die "Found no Python of 3.11 or newer. Install one, or say where it is: make setup PYTHON=/path/to/python3"
}

# On Linux, PyPI's torch brings gigabytes of CUDA; PyTorch's own index of CPU builds is used where it answers.
torch_index() {
    [ "$(uname -s)" = Linux ] || return 0
    if "$1" - >/dev/null 2>&1 <<'PYTHON'; then
import urllib.request

urllib.request.urlopen("https://download.pytorch.org/whl/cpu/torch/", timeout=3).close()
PYTHON
        printf '%s\n' "--extra-index-url=https://download.pytorch.org/whl/cpu"
    fi
}

# One number for the contents of files and folders.
fingerprint() {
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum | cksum
}
