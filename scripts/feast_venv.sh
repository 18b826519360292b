#!/bin/sh
# Makes a venv of its own with the real feast in it: the adapter for feast's stores is checked against what feast
# itself writes and reads. Feast asks for pandas, Dask and more, which has no place in .venv.
#
# usage: sh scripts/feast_venv.sh [FOLDER]      (default: .bench/feast/venv; FEAST_VENV says otherwise)
set -eu
cd "$(dirname "$0")/.."

REQUIREMENT='feast[redis]>=0.63,<0.70'
VENV=${1:-${FEAST_VENV:-.bench/feast/venv}}
STAMP=$VENV/.installed

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$REQUIREMENT" ]; then
    exit 0
fi
# Other projects' settings, which would send the packages elsewhere.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_NO_INPUT=1

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "feast_venv.sh: $PYTHON is older than 3.11; name a newer one: PYTHON=python3.12 sh scripts/feast_venv.sh" >&2
    exit 1
fi
echo "installing $REQUIREMENT into $VENV (first time, about a minute, 600 MB) …"
rm -rf "$VENV"
mkdir -p "$(dirname "$VENV")"
"$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$REQUIREMENT"
echo "$REQUIREMENT" >"$STAMP"
echo "$("$VENV/bin/python" -m pip show feast 2>/dev/null | sed -n 's/^Version: /feast /p') in $VENV"
