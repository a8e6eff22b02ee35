#!/usr/bin/env bash
# Every GPU measurement, or the named sections of them; the tables come last, the logs go to DIR.
#
#   DISTILL=distill OPERATIONS=operations benches/gpu.sh DIR [smoke|step|jsd|profile|losses|attention|adapters|on-policy|long]...
#
# DISTILL     the binary, built with --features cuda
# OPERATIONS  the built benchmark `operations`: cargo build --release --features cuda --bench operations
# WHEELS      a folder with wheels of liger-kernel and trl, where they are not installed
# PYTHON      an interpreter with torch, transformers, peft, accelerate (python3)
# TINY=1      tiny sizes on the CPU, to see that everything works
#
# What fails is written down and the rest goes on. The exit status is 1 when anything failed. Each section stays below ten minutes.
set -uo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
fi
mkdir -p "$1"
logs=$(cd "$1" && pwd)
: >"$logs/items.txt"
shift
sections=("$@")
if [ ${#sections[@]} -eq 0 ]; then
    sections=(smoke step jsd profile losses attention adapters on-policy long)
fi

cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export DISTILL="${DISTILL:-target/release/distill}" PYTHONUNBUFFERED=1
models=runs/gpu
device=cuda
tiny=()
rounds=()
if [ -n "${TINY:-}" ]; then
    models=runs/gpu-tiny
    device=cpu
    tiny=(--tiny)
    rounds=(--rounds 1 --steps 2 --warmup 1)
fi
failed=0
items=()

# item NAME COMMAND...: its stdout is the table, its stderr the log.
item() {
    local name=$1 start=$SECONDS status outcome="done"
    shift
    "$@" >"$logs/$name.md" 2>"$logs/$name.log"
    status=$?
    items+=("$name")
    if [ $status -ne 0 ]; then
        failed=1
        outcome="failed ($status)"
    fi
    # A table that has the failure in it says why.
    if [ $status -ne 0 ] && ! grep -q failed "$logs/$name.md"; then
        { echo; echo "$name failed ($status):"; echo; echo '```'; tail -n 15 "$logs/$name.log"; echo '```'; } >>"$logs/$name.md"
    fi
    echo "$name: $outcome after $((SECONDS - start)) s" | tee -a "$logs/items.txt"
}

# shellcheck disable=SC2317  # `item` calls it
operations() {
    "$python" benches/operations.py --program "${OPERATIONS:?the built benchmark}" --device "$device" --threads "$(nproc)" "$@"
}

# The shapes of a section, or one of each operation.
chosen() {
    if [ -n "${TINY:-}" ]; then echo tiny; else echo "$1"; fi
}

if [ -n "${WHEELS:-}" ]; then
    item wheels "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
item models "$python" benches/gpu/make_models.py "$models" "${tiny[@]}"

for section in "${sections[@]}"; do
    case $section in
    smoke)
        item smoke "$python" benches/gpu/smoke.py --device "$device" "${tiny[@]}"
        item product operations --set "$(chosen large-products)" --rounds 1 --lengths
        ;;
    step)
        item step "$python" benches/gpu/step.py kl --device "$device" "${tiny[@]}" "${rounds[@]}"
        ;;
    jsd) item jsd "$python" benches/gpu/step.py jsd --device "$device" "${tiny[@]}" "${rounds[@]}" ;;
    profile) item profile "$python" benches/gpu/top_kernels.py ;;
    losses) item losses operations --set "$(chosen large-losses)" --liger --rounds 2 --lengths ;;
    attention)
        item attention operations --set "$(chosen large-attention)" --rounds 2 --lengths 512 2048
        ;;
    adapters) item adapters "$python" benches/gpu/step.py adapters --device "$device" "${tiny[@]}" "${rounds[@]}" ;;
    on-policy) item on-policy "$python" benches/gpu/step.py on-policy --device "$device" "${tiny[@]}" "${rounds[@]}" ;;
    long)
        if [ -n "${TINY:-}" ]; then
            item long "$python" benches/gpu/long_run.py --device cpu --tiny --steps 60
        else
            item long "$python" benches/gpu/long_run.py --minutes 7
        fi
        ;;
    *)
        echo "unknown section $section: smoke, step, jsd, profile, losses, attention, adapters, on-policy or long" >&2
        exit 2
        ;;
    esac
done

{
    for name in "${items[@]}"; do
        [ -s "$logs/$name.md" ] && { echo; echo "## $name"; cat "$logs/$name.md"; }
    done
    echo
    cat "$logs/items.txt"
} | tee "$logs/table.md"
exit $failed
