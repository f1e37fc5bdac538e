#!/usr/bin/env bash
# Runs every kind of test, goes on after a failure, and ends with one table.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH="$PWD/.venv/bin:$PATH"
# Notebooks write their pages here and not beside themselves.
export RELATIF_OUT="$PWD/build/notebooks"
# Tutorials in seconds; without it they take the minutes of their full size.
export RELATIF_SIZE=small RELATIF_CACHE="$PWD/build/cache"
mkdir -p "$RELATIF_OUT"

summary=
failed=0

part() {
    local name="$1" start=$SECONDS result=passed
    shift
    printf '\n== %s ==\n' "$name"
    "$@" || result=FAILED
    [ "$result" = passed ] || failed=1
    summary+="$(printf '%-10s %s %5d s' "$name" "$result" $((SECONDS - start)))"$'\n'
}

# shellcheck disable=SC2329  # `part` calls it
browser() {
    RELATIF_BROWSER="$(bash scripts/browser.sh)" || return 1
    export RELATIF_BROWSER
    pytest tests/browser -m browser
}

part "front end" npm --prefix js test
# One worker for each core up to four, each on one thread: torch's own threads gain little on small tensors.
part "Python" env OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile -m "not browser and not notebook"
part "notebooks" pytest -m notebook -rA tests/test_notebooks.py
part "browser" browser

printf '\n%s' "$summary"
exit "$failed"
