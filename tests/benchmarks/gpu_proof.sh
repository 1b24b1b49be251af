#!/usr/bin/env bash
# What only a GPU can show, in one script: tests, throughput, published baselines, and as much of a table as fits.
#
#   bash tests/benchmarks/gpu_proof.sh [--scale X] [--seconds N] [--root FOLDER] [--out FILE]
#
#   --scale X      fraction of the published epochs (default: 1; 0.01 is the dry run on a CPU)
#   --seconds N    time for the table (default: 540)
#   --root FOLDER  folder with cifar-10-python.tar.gz and cifar-100-python.tar.gz (default: the project's cache)
#   --out FILE     page that the results are appended to (default: docs/gpu.md)
set -uo pipefail
cd "$(dirname "$0")/../.."
scale=1 seconds=540 root="" out=docs/gpu.md
while [ $# -gt 0 ]; do
  case "$1" in
    --scale) scale=$2 ;; --seconds) seconds=$2 ;; --root) root=$2 ;; --out) out=$2 ;;
    *) echo "gpu_proof.sh: unknown option $1: --scale, --seconds, --root and --out are known" >&2; exit 2 ;;
  esac
  shift 2
done
python=${PYTHON:-.venv/bin/python}
data=(); [ -n "$root" ] && data=(--data-root "$root")
gpus=$("$python" -c "import torch; print(torch.cuda.device_count())")
device=$("$python" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')")
share=(); [ "$gpus" -gt 0 ] && share=(--gpus-per-trial auto --precision bf16)
failed=0

note() { printf '%s\n' "$@" >> "$out"; }

# Runs a command, appends it with its last lines and time, and remembers whether it failed.
part() {
  local title=$1 lines=$2 began=$SECONDS log; shift 2
  log=$(mktemp)
  echo "+ $*"
  "$@" > "$log" 2>&1; local code=$?
  [ $code -ne 0 ] && [ $code -ne 124 ] && [ $code -ne 130 ] && failed=1
  note "" "### $title" "" "    $*" "" "Exit code $code after $((SECONDS - began)) s." "" '```'
  tail -n "$lines" "$log" >> "$out"
  note '```'
  rm -f "$log"
}

mkdir -p "$(dirname "$out")"
note "" "## $device, $(date -u +%Y-%m-%d), $(git rev-parse --short HEAD)" "" \
  "Fraction of the published epochs: $scale; torch $("$python" -c 'import torch; print(torch.__version__)')."

part "Tests that need a GPU" 5 "$python" -m pytest -q -n 0 -m gpu -p no:cacheprovider tests
quick=(); [ "$scale" != 1 ] && quick=(--quick)
part "Throughput of training" 25 "$python" tests/benchmarks/training_speed.py epoch "${quick[@]}"
part "Trials an hour, one slot and two" 15 "$python" tests/benchmarks/slots.py "${quick[@]}"

work=$(mktemp -d)
tables=(--epochs-scale "$scale" --output "$work/results" --tracking-uri none --pages "$work/pages")
for name in cifar10-lt cifar100-lt; do
  part "Published baseline, $name at imbalance 100" 12 timeout "$seconds" "$python" -m search.papers \
    --table bag_of_tricks/1 --data "$name" "${data[@]}" --seeds 1 "${tables[@]}" "${share[@]}"
done
for joint in off on; do
  part "Seeds trained jointly: $joint" 6 timeout "$seconds" "$python" -m search.papers --table bag_of_tricks/4 \
    --data cifar10-lt "${data[@]}" --seeds 4 "${tables[@]}" "${share[@]}" --fused-trials "$joint" --seed $([ $joint = on ] && echo 1 || echo 0)
done
part "Bag of Tricks, table 10, as much as fits into $seconds s" 30 timeout --signal INT "$seconds" "$python" \
  -m search.papers --table bag_of_tricks/10 --data cifar10-lt "${data[@]}" --seeds 5 "${tables[@]}" "${share[@]}"
rm -rf "$work"
echo "Appended to $out"
exit $failed
