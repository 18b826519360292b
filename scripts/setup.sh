#!/bin/sh
# Makes .venv and installs Headrace into it.
# usage: scripts/setup.sh cpu|gpu [production]
#
# For work on the checkout: editable, with all that the Makefile's targets need. For production: the package itself
# with what serving needs, compiled, and nothing that points back to the checkout (the Dockerfile does that).
#
# With `uv` on the PATH, uv does the work; else python3 -m venv and pip. A .venv that works is kept.

set -eu
cd "$(dirname "$0")/.."

flavour=$1
purpose=${2:-development}
venv=.venv
python=$venv/bin/python

# Other projects' settings, which would send the packages elsewhere.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }

fail() {
    printf 'make setup: %s\n' "$@" >&2
    exit 1
}

# Does this interpreter run, and is it new enough?
is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Can it make virtual environments with pip inside?
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Prints an interpreter that is new enough; one that can make virtual environments, where there is one.
find_python() {
    second_best=
    for name in python3.11 python3.12 python3.13 python3; do
        found=$(command -v "$name") || continue
        is_python "$found" || continue
        if makes_venvs "$found"; then
            printf '%s\n' "$found"
            return
        fi
        second_best=${second_best:-$found}
    done
    printf '%s\n' "$second_best"
}

make_venv_with_uv() {
    base=$(find_python)
    uv venv --quiet --python "${base:-3.11}" "$venv" # where there is no Python, uv fetches one
}

make_venv() {
    base=$(find_python)
    [ -n "$base" ] || fail "no Python 3.11 or newer found." \
        "on Debian or Ubuntu: apt-get install python3 python3-venv"
    makes_venvs "$base" || fail "$base cannot make virtual environments (ensurepip is missing)." \
        "on Debian or Ubuntu: apt-get install python$(version_of "$base")-venv"
    "$base" -m venv "$venv"
}

# ONNX Runtime's two distributions overwrite each other's files: the other one goes before ours comes.
drop_the_other_runtime() {
    case $flavour in
    cpu) other=onnxruntime-gpu ;;
    gpu) other=onnxruntime ;;
    esac
    "$python" scripts/check_setup.py # refuses where both are there
    "$python" -c "from importlib.metadata import version; version('$other')" 2>/dev/null || return 0
    say "  removing $other, which cannot live beside the one for $flavour"
    if [ -n "$uv" ]; then
        uv pip uninstall --quiet --python "$python" "$other"
    else
        "$python" -m pip uninstall --quiet --yes "$other"
    fi
}

install() {
    case $purpose in
    development) set -- --editable ".[$flavour,dev]" ;;
    production) set -- --compile ".[$flavour]" ;;
    esac
    if [ -n "$uv" ]; then
        uv pip install --quiet --python "$python" "$@" && return
        say "  uv could not do it; trying pip …"
    fi
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
    "$python" -m pip install --quiet --use-pep517 "$@"
}

case $flavour in cpu | gpu) ;; *) fail "cpu or gpu?" ;; esac
case $purpose in development | production) ;; *) fail "what is '$purpose'? say production, or nothing" ;; esac
uv=
if uv --version >/dev/null 2>&1; then uv=uv; fi

if is_python "$python"; then
    say "setting up $venv (changed since last time) …"
else
    say "setting up $venv (first time, about a minute) …"
    rm -rf "$venv" # a broken one: its Python is gone or too old
    if [ -n "$uv" ]; then make_venv_with_uv; else make_venv; fi
fi
say "  Python $(version_of "$python"), ${uv:-pip}, ONNX Runtime for $flavour"

rm -f "$venv"/.installed-*
drop_the_other_runtime
install
# The mark tells make that its targets have what they need.
if [ "$purpose" = development ]; then touch "$venv/.installed-$flavour"; fi
say "  done: $venv is ready"
