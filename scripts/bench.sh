#!/usr/bin/env bash
# Makes an environment for the other libraries in build/peers, then runs benchmarks/bench.py with this script's options.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

peers="$PWD/build/peers"
if [ ! -f "$peers/.stamp" ] || ! cmp -s benchmarks/peers.txt "$peers/.stamp"; then
    say "Making build/peers for the libraries in benchmarks/peers.txt."
    "$(find_python)" -m venv --clear "$peers"
    torch="$(sed -n 's/^torch==//p' constraints.txt)"
    # shellcheck disable=SC2046  # no index or one option
    "$peers/bin/python" -m pip install -q $(torch_index "$peers/bin/python") "torch==$torch"
    "$peers/bin/python" -m pip install -q -r benchmarks/peers.txt "torch==$torch"
    "$peers/bin/python" -m pip install -q --no-deps kronfluence==1.0.1
    cp benchmarks/peers.txt "$peers/.stamp"
fi
exec .venv/bin/python benchmarks/bench.py "$@"
