#!/usr/bin/env bash
# Builds the reference environment: MMDetection 3.3.0 itself, on the CPU, beside the package and apart from it.
#
#   bash tests/parity/reference_env/setup.sh [FOLDER]      (.venv-reference where left out; safe to run again)
#
# Needs Python 3.12 or 3.11, since MMDetection needs numpy 1: the newer of them on the PATH is taken, or PYTHON=... says
# which. About two minutes and 1.5 GB with the CPU build of torch. Any build will do, but on Linux pip's own choice
# brings CUDA along: set PIP_EXTRA_INDEX_URL to the address of PyTorch's CPU builds first, as the README says.
#
# mmcv-lite is mmcv without its compiled half, which no longer installs with current versions of torch; _ext.py stands
# in for the one compiled operation that is needed here, non-maximum suppression.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:-.venv-reference}

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.12 python3.11 python3; do
        if suits "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ] || ! suits "$python"; then
    echo "reference environment: Python 3.11 or 3.12 is needed (MMDetection needs numpy 1), and" \
        "${python:+$python is not one}${python:-none is on the PATH}. Install one, or set PYTHON=/path/to/python3.12." >&2
    exit 2
fi

if cmp -s "$here/requirements.txt" "$venv/requirements.done" && cmp -s "$here/_ext.py" "$venv/_ext.done"; then
    echo "reference environment: $venv is ready"
    exit 0
fi
echo "reference environment: building $venv with $("$python" --version)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/_ext.py" "$packages/mmcv/_ext.py"
"$venv/bin/python" -W ignore -c 'import mmcv.ops, mmdet, mmdet.models, torch; print("mmdet", mmdet.__version__, "on torch", torch.__version__)'
cp "$here/_ext.py" "$venv/_ext.done"
cp "$here/requirements.txt" "$venv/requirements.done"
