#!/usr/bin/env bash
# Prints the path of a Chromium that starts, and installs one where there is none.
# RELATIF_BROWSER names one.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/common.sh
. scripts/common.sh

# --version, because Ubuntu's chromium-browser may be a note that says where the browser is to be had
starts() { [ -n "$1" ] && "$1" --version >/dev/null 2>&1; }

found() {
    local candidate
    for candidate in \
        chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" \
        "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
        if starts "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

playwrights() {
    .venv/bin/python - <<'PYTHON'
from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
PYTHON
}

if [ -n "${RELATIF_BROWSER:-}" ]; then
    starts "$RELATIF_BROWSER" || die "RELATIF_BROWSER=$RELATIF_BROWSER does not start."
    command -v "$RELATIF_BROWSER"
    exit
fi

if found; then exit; fi

path="$(playwrights 2>/dev/null || true)"
if starts "$path"; then
    say "$path"
    exit
fi

as_root=
[ "$(id -u)" -eq 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    say "Found no Chromium: installing Debian's." >&2
    if {
        $as_root apt-get update -q &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium fonts-dejavu-core
    } >&2 </dev/null && found; then
        exit
    fi
fi

say "Found no Chromium: asking Playwright for its own." >&2
if .venv/bin/playwright install chromium >&2; then
    path="$(playwrights)"
    if starts "$path"; then
        say "$path"
        exit
    fi
fi

die "Found no Chromium and could not install one. Install Chromium or Chrome, or set RELATIF_BROWSER to its path."
