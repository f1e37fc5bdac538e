#!/usr/bin/env bash
# Puts code and notebooks in order.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

ruff check --fix-only .
ruff format .
npm --prefix js run --silent format
nbstripout --keep-id notebooks/*.ipynb
