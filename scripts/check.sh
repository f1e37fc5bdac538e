#!/usr/bin/env bash
# Everything that can be said about the code without running it. Names all that is wrong, not just the first.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH="$PWD/.venv/bin:$PATH"

failed=()

check() {
    local name="$1"
    shift
    printf '== %s ==\n' "$name"
    "$@" || failed+=("$name")
}

# shellcheck disable=SC2329  # `check` calls it
stripped() {
    nbstripout --keep-id --verify notebooks/*.ipynb || {
        echo "A notebook holds outputs; make format strips them."
        return 1
    }
}

check "format" ruff format --check .
check "lint" ruff check .
# Of the package mypy says it; the lint leaves it out, since jaxtyping's axes look like names that are missing.
check "names" ruff check --isolated --quiet --select F821 benchmarks scripts binder notebooks
check "types" mypy
check "arrows" lint-imports --no-logo
check "front end" npm --prefix js run --silent check
check "notebooks" stripped

if [ "${#failed[@]}" -gt 0 ]; then
    printf '\nfailed: %s\n' "${failed[*]}"
    exit 1
fi
printf '\nAll checks passed.\n'
