#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of less than nine minutes on an H100 or H200:
#
#   bash benchmarks/flight.sh --out FOLDER [--wheels FOLDER]
#   bash benchmarks/flight.sh --out FOLDER --tiny --device cpu     # the same code on small inputs, on any machine
#
# Needs torch, numpy, opencv, matplotlib, jaxtyping and pytest; benchmarks/wheels.sh gathers the rest where there is a
# network, and --wheels installs it, for this command alone, where there is none.
#
# The parts come in the order of what they are worth.  Each writes what it has as soon as it has it, may take so many
# seconds and no more, and none keeps the next from its turn.  In FOLDER: gpu.json (all numbers), flight.log (all that
# was printed) and flight.tar.gz (traces of the profile).
set -uo pipefail

out=${OUT:-flight} wheels="" tiny=() patience=1
while (($#)); do
    case $1 in
        --out) out=$2; shift 2 ;;
        --wheels) wheels=$2; shift 2 ;;
        --tiny) tiny+=(--tiny) patience=10; shift ;;  # times mean nothing, and the machine may be any
        --device) tiny+=(--device "$2"); shift 2 ;;
        *) echo "flight.sh: unknown word $1" >&2; exit 2 ;;
    esac
done
cd "$(dirname "$0")/.." || exit
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
exec > >(tee "$out/flight.log") 2>&1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$scratch"' EXIT
export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1 TQDM_DISABLE=1 XDG_CACHE_HOME="$scratch/cache"
export TORCHINDUCTOR_CACHE_DIR="$scratch/inductor"  # what one part compiled, the next finds

if [[ -n $wheels ]]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$scratch/site" "$wheels"/*.whl || exit
    export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi

part() {  # part SECONDS NAME COMMAND...: run it in so many seconds, or in what is left of all of them
    local limit=$(($1 * patience)) name=$2 left=$((530 * patience - SECONDS)) code=0
    shift 2
    ((limit = limit < left ? limit : left))
    if ((limit < 5)); then
        echo "== $name: left out, no time is left"
        return
    fi
    echo "== $name, $SECONDS s after the start, at most $limit s"
    timeout --kill-after=5 "$limit" "$@" || code=$?
    ((code)) && failed+=("$name ($code)")
    echo "== $name: ended with $code, $SECONDS s after the start"
}

gpu() {  # gpu SECONDS PART WORDS...: a part of the benchmark
    local limit=$1 name=$2
    shift 2
    part "$limit" "$name" "$python" benchmarks/gpu.py "$name" --out "$out/gpu.json" "${tiny[@]}" "$@"
}

tests() {  # tests SECONDS MARK
    part "$1" "tests, $2" "$python" -m pytest tests/gpu -q -p no:cacheprovider -m "$2" --maxfail=20 --tb=short
}

failed=()
nvidia-smi 2>/dev/null
workers=$(($(nproc) > 3 ? $(nproc) - 2 : 1))
# the race's data set is drawn on the processor meanwhile
"$python" benchmarks/gpu.py scenes "${tiny[@]}" &
scenes=$!
tests 100 "not compile and not slow"
# where they take longer than the tests, the GPU does not wait for them
stepped=0
if kill -0 "$scenes" 2>/dev/null; then
    gpu 190 step
    stepped=1
fi
wait "$scenes"
gpu 140 race --epochs 16 --eval-every 4 --workers "$workers"
((stepped)) || gpu 190 step
gpu 50 assign
gpu 60 profile --trace "$scratch/traces"
gpu 40 busy --workers "$workers"
tests 200 "compile"  # last, since to compile takes longest and everything else does without

if [[ -d $scratch/traces ]]; then tar -czf "$out/flight.tar.gz" -C "$scratch" traces; fi
echo "== done after $SECONDS s; failed or cut off: ${failed[*]:-nothing}"
((${#failed[@]} == 0))
