#!/usr/bin/env bash
# Opens the first tutorial in JupyterLab; prints the address where no browser can open.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

# No question about news over the gallery; for this environment only.
settings="$(python -c 'import sys; print(sys.prefix)')/share/jupyter/lab/settings"
mkdir -p "$settings"
echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' >"$settings/overrides.json"

# A copy to play in: the tests run the notebook that git tracks. What was changed in the copy stays.
play="$PWD/build/demo"
mkdir -p "$play"
[ -f "$play/01-first-explanation.ipynb" ] || cp notebooks/01-first-explanation.ipynb "$play/"
export PYTHONPATH="$PWD/notebooks${PYTHONPATH:+:$PYTHONPATH}"

options=(
    --ServerApp.root_dir="$play"
    --LabApp.default_url=/lab/tree/01-first-explanation.ipynb
    # A demo asks nothing of the network.
    --LabApp.news_url=None
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate
)
[ "$(id -u)" -ne 0 ] || options+=(--allow-root)
if [ "$(uname -s)" = Linux ] && [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}${WSL_DISTRO_NAME:-}" ]; then
    options+=(--no-browser)
    echo "No display here: open the address that JupyterLab prints below."
fi
exec jupyter lab "${options[@]}" "$@"
