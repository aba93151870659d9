#!/usr/bin/env bash
# Exports a report, where nsys is, to what `dsocr-nvtx join` reads, also on a machine without nsys.
#
#   nsys_scripts/export.sh [-o OUTPUT] [--type sqlite|arrowdir|parquetdir] [--force] REPORT.nsys-rep
#
# nsys names OUTPUT after the report where none is given.
# A default export joins as well: costs are then taken from the announcements, as payloads are left out.
set -euo pipefail

# Each script stands alone, so that one may be copied to where nsys is.
explain() { sed -n '2,/^set /s/^#$//p; 2,/^set /s/^# //p' "$0"; exit 0; }
need() { command -v "$1" >/dev/null || { echo "$0: $1 is not on the PATH; $2" >&2; exit 3; }; }
nsys_from="install NVIDIA Nsight Systems, or add the folder of its nsys to the PATH"

type=sqlite
output=
force=false
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) explain ;;
        -o | --output) output=${2:?"$1 needs a name"}; shift 2 ;;
        --type) type=${2:?"$1 needs sqlite, arrowdir or parquetdir"}; shift 2 ;;
        --force) force=true; shift ;;
        *) break ;;
    esac
done
[ $# -eq 1 ] || { echo "usage: $0 [-o OUTPUT] [--type sqlite|arrowdir|parquetdir] [--force] REPORT.nsys-rep" >&2; exit 2; }

need nsys "$nsys_from"
flags=(
    # One file that any SQLite opens; a folder of Arrow or Parquet files is smaller and faster to read for large reports.
    --type="$type"
    # Payloads of ranges, which carry their costs: left out by default. Their JSON is larger and says the same.
    --include-blobs=true
    # An export that is there is kept, unless told otherwise.
    --force-overwrite="$force"
)
[ -z "$output" ] || flags+=(--output="$output")
exec nsys export "${flags[@]}" "$1"
