#!/usr/bin/env bash
# As much of Binder as can be checked without a container: bash scripts/check_binder.sh [--build]
# --build also runs binder/postBuild in a clean environment, a few minutes and some 2 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

[ "$#" -eq 0 ] || [ "$*" = --build ] || die "usage: bash scripts/check_binder.sh [--build]"
python="${PYTHON:-.venv/bin/python}"
"$python" -c 'import nbclient, yaml' 2>/dev/null || die "Run make setup first, or say which Python: PYTHON=..."

"$python" -m pytest -q tests/test_binder.py
"$python" tests/tutorials.py notebooks/*.ipynb
[ "$#" -gt 0 ] || exit 0

place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
mkdir -p "$place/repository" "$place/home"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar cf - | tar xf - -C "$place/repository"

# In place of conda: the tested torch, and Node from the machine, as environment.yml asks for it.
base="$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')"
"$base" -m venv "$place/venv"
export PATH="$place/venv/bin:$PATH" HOME="$place/home"
unset PYTHONPATH
[ "$(python -c 'import sys; print(*sys.version_info[:2], sep=".")')" = 3.11 ] || say "note: Binder has Python 3.11, this is $(python --version)"
node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))' || die "Node 20 or newer is needed."
# shellcheck disable=SC2046  # no index or one option
python -m pip install -q -c constraints.txt $(torch_index python) pip torch numpy
before="$(python -c 'import torch; print(torch.__version__, torch.__file__)')"

cd "$place/repository"
./binder/postBuild

after="$(python -c 'import torch; print(torch.__version__, torch.__file__)')"
[ "$before" = "$after" ] || die "postBuild replaced torch: $before became $after"
say "torch is the one that was there: $after"
for left in js/node_modules js/lib build/binder; do
    [ ! -e "$left" ] || die "postBuild left $left behind"
done
[ -s notebooks/first-explanation.relatif.json ] || die "postBuild made no explanation"
jupyter labextension list 2>&1 | grep -q "relatif-widgets.*enabled.*OK" || die "JupyterLab does not find the extension"
jupyter lab workspaces export first >"$place/workspace.json"
grep -q first-explanation.relatif.json "$place/workspace.json" || die "the workspace does not open the explanation"
say "postBuild: package $(du -sm "$place/venv" | cut -f1) MB with torch, home $(du -sm "$HOME" | cut -f1) MB"
python tests/tutorials.py notebooks/*.ipynb
