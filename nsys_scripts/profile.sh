#!/usr/bin/env bash
# Profiles a DeepSeek-OCR run with the flags that a roofline needs, and no others.
#
#   nsys_scripts/profile.sh [-o REPORT] [--range] [COMMAND ...]
#
# COMMAND is the run, `python3 -m dsocr_nvtx.run` where none is given; what begins with a dash is an argument of that
# (`python3 -m dsocr_nvtx.run --help` has them).
# --range records only what lies between the CUDA profiler's start and stop: the run, without building and warm-up.
# Afterwards: dsocr-nvtx join REPORT.nsys-rep
set -euo pipefail

# Each script stands alone, so that one may be copied to where nsys is.
explain() { sed -n '2,/^set /s/^#$//p; 2,/^set /s/^# //p' "$0"; exit 0; }
need() { command -v "$1" >/dev/null || { echo "$0: $1 is not on the PATH; $2" >&2; exit 3; }; }
nsys_from="install NVIDIA Nsight Systems, or add the folder of its nsys to the PATH"

report=report
range=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) explain ;;
        -o | --output) report=${2:?"$1 needs a report name"}; shift 2 ;;
        --range) range=(--capture-range=cudaProfilerApi --capture-range-end=stop); shift ;;
        --) shift; break ;;
        *) break ;;
    esac
done
need nsys "$nsys_from"
if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
    set -- "${PYTHON:-python3}" -m dsocr_nvtx.run "$@"
    [ ${#range[@]} -eq 0 ] || set -- "$@" --capture-range
fi

flags=(
    # GPU work and API calls (cuda), our ranges and their payloads (nvtx); no other API is read.
    --trace='cuda,nvtx'
    # Neither CPU samples nor context switches: a report of seconds would grow to gigabytes, and nothing reads them.
    --sample=none
    --cpuctxsw=none
    # Kernels of a replayed CUDA graph one by one; the default shows a whole graph as one operation, layers lost.
    --cuda-graph-trace=node
    # Timing events are read by the run itself; tracing them can stall it.
    --cuda-event-trace=false
)
exec nsys profile "${flags[@]}" "${range[@]}" --output="$report" "$@"
