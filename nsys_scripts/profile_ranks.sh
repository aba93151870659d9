#!/usr/bin/env bash
# Profiles a run on several GPUs of one machine under torchrun: a report for each rank, or one for all.
#
#   nsys_scripts/profile_ranks.sh -n RANKS [-o REPORT] [--one] [--range] [COMMAND ...]
#
# COMMAND is what each rank runs; `python3 -m dsocr_nvtx.run` on the GPU of the rank where none is given, and what begins
# with a dash is an argument of that. Each rank has RANK and LOCAL_RANK in its environment, as torchrun sets them.
# A report per rank (REPORT.0.nsys-rep, REPORT.1.nsys-rep, ...): nsys runs inside torchrun, once for each rank.
# --one: nsys runs around torchrun, follows its processes and writes one report, REPORT.nsys-rep, with one clock for all
# ranks; it grows with their number, and a rank that dies takes the report with it.
# --range records only what lies between the CUDA profiler's start and stop; with --one, up to the first rank's stop.
# Afterwards: dsocr-nvtx join 'REPORT.*.nsys-rep' --run run -o fleet
# With --one: dsocr-nvtx join REPORT.nsys-rep
set -euo pipefail

# Each script stands alone, so that one may be copied to where nsys is.
explain() { sed -n '2,/^set /s/^#$//p; 2,/^set /s/^# //p' "$0"; exit 0; }
need() { command -v "$1" >/dev/null || { echo "$0: $1 is not on the PATH; $2" >&2; exit 3; }; }
nsys_from="install NVIDIA Nsight Systems, or add the folder of its nsys to the PATH"

report=report
ranks=
one=
range=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) explain ;;
        -n | --ranks) ranks=${2:?"$1 needs a number of ranks"}; shift 2 ;;
        -o | --output) report=${2:?"$1 needs a report name"}; shift 2 ;;
        --one) one=yes; shift ;;
        --range) range=(--capture-range=cudaProfilerApi --capture-range-end=stop); shift ;;
        --) shift; break ;;
        *) break ;;
    esac
done
[ -n "$ranks" ] || { echo "usage: $0 -n RANKS [-o REPORT] [--one] [--range] [COMMAND ...]" >&2; exit 2; }
need nsys "$nsys_from"
need torchrun "it comes with PyTorch: activate its environment"
if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
    [ ${#range[@]} -eq 0 ] || set -- "$@" --capture-range
    # The run takes the GPU of its LOCAL_RANK, and writes run/rank-N.
    set -- "${PYTHON:-python3}" -m dsocr_nvtx.run --out run "$@"
fi

flags=(
    # The flags of profile.sh, each with its reason there.
    --trace='cuda,nvtx'
    --sample=none
    --cpuctxsw=none
    --cuda-graph-trace=node
    --cuda-event-trace=false
)
# Ranks start programs, not Python scripts: nsys, or COMMAND itself.
launch=(torchrun --standalone --nproc-per-node="$ranks" --no-python)
if [ -n "$one" ]; then
    exec nsys profile "${flags[@]}" "${range[@]}" --output="$report" "${launch[@]}" "$@"
fi
# nsys puts the variable's value there, rank by rank; a name for all would be written by all.
exec "${launch[@]}" nsys profile "${flags[@]}" "${range[@]}" --output="$report.%q{RANK}" "$@"
