#!/usr/bin/env bash
# Runs the first tutorial and leaves its explanation as a web page.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
export RELATIF_OUT="$PWD/build"
mkdir -p "$RELATIF_OUT"

page="$RELATIF_OUT/first-explanation.html"
rm -f "$page"
# The kernel listens on this machine alone; its note about encryption would only worry.
jupyter nbconvert --log-level=WARN --to notebook --execute --output-dir="$RELATIF_OUT" \
    notebooks/01-first-explanation.ipynb 2> >(grep -v "without encryption" >&2)
[ -f "$page" ] || {
    echo "error: the notebook ran, but wrote no $page" >&2
    exit 1
}
echo "Open this page in a browser; it needs no kernel and no network:"
echo "$page"
