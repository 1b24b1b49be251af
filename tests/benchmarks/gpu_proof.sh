#!/usr/bin/env bash
# What only a GPU can show: tests, speed, published baselines, and as much of a table as fits.
#
#   bash tests/benchmarks/gpu_proof.sh [--parts LIST] [--seconds N] [--root FOLDER] [--out FILE] [--dry-run] [--show]
#
#   --parts LIST   of tests,speed,baselines,table, separated by commas (default: all of them)
#   --seconds N    time for each table (default: 540, in a dry run 60)
#   --root FOLDER  folder with cifar-10-python.tar.gz and cifar-100-python.tar.gz (default: the packs of LONGTAIL_SHARED,
#                  where that is set, otherwise the project's cache)
#   --out FILE     page that the results are appended to (default: docs/gpu.md, in a dry run a temporary file)
#   --dry-run      a hundredth of the length on small images: does every command run, on a CPU
#   --show         print the commands; run nothing
set -uo pipefail
cd "$(dirname "$0")/../.."
parts=tests,speed,baselines,table seconds="" root="" out="" scale=1 seeds=5 show="" dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=yes; shift; continue ;;
    --show) show=yes; shift; continue ;;
    --parts | --seconds | --root | --out)
      [ $# -ge 2 ] || { echo "gpu_proof.sh: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"; shift 2 ;;
    *) echo "gpu_proof.sh: unknown option $1; known are --parts, --seconds, --root, --out, --dry-run and --show" >&2; exit 2 ;;
  esac
done
for name in ${parts//,/ }; do
  case $name in tests | speed | baselines | table) ;;
    *) echo "gpu_proof.sh: --parts $name: known are tests, speed, baselines and table" >&2; exit 2 ;;
  esac
done
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quick=() small=() share=() failed=0
[ -n "$dry" ] && scale=0.01 seeds=1 seconds=${seconds:-60} quick=(--quick) small=(--model resnet8) out=${out:-$(mktemp --suffix=.md)}
out=${out:-docs/gpu.md} seconds=${seconds:-540}

note() { [ -n "$show" ] || printf '%s\n' "$@" >> "$out"; }
wanted() { [[ ",$parts," == *",$1,"* ]]; }

# Runs a command, appends it with its last lines and time, and remembers whether it failed. An interruption, which
# is how the time of a table ends, is no failure.
part() {
  local title=$1 lines=$2 began=$SECONDS code; shift 2
  printf '%q ' "$@"; echo
  [ -n "$show" ] && return
  "$@" > "$work/log" 2>&1; code=$?
  [ $code -ne 0 ] && [ $code -ne 124 ] && [ $code -ne 130 ] && failed=1 && tail -n 5 "$work/log" >&2
  note "" "### $title" "" "    ${*//$work/WORK}" "" "Exit code $code after $((SECONDS - began)) s." "" '```'
  tail -n "$lines" "$work/log" | sed "s#$work#WORK#g" >> "$out"
  note '```'
}

# Trains a table, for some time, and keeps what is done for a second call.
table() {
  local title=$1 id=$2 data=$3; shift 3
  part "$title" 40 timeout --signal INT --kill-after 60 "$seconds" "$python" -m search.papers --table "$id" \
    --data "$data" "$@" --seeds "$seeds" --epochs-scale "$scale" --output "$work/results" --tracking-uri none \
    --pages "$work/pages" "${small[@]}" "${share[@]}"
}

if [ -z "$show" ]; then
  gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
  [ -n "$gpu" ] && share=(--gpus-per-trial auto --precision bf16)
  mkdir -p "$(dirname "$out")"
  note "" "## ${gpu:-No GPU}, $(date -u +%Y-%m-%d), $(git rev-parse --short HEAD 2>/dev/null || echo unknown commit)" "" \
    "Fraction of the published epochs: $scale; torch $("$python" -c 'import torch; print(torch.__version__)')."
fi

if wanted tests; then part "Tests that need a GPU" 5 "$python" -m pytest -q -n 0 -m gpu -p no:cacheprovider tests; fi
if wanted speed; then
  part "Epochs" 30 "$python" tests/benchmarks/training_speed.py epoch "${quick[@]}"
  part "Goals" 15 "$python" tests/benchmarks/training_speed.py goals "${quick[@]}"
fi

if wanted baselines || wanted table; then
  ten=cifar10-lt hundred=cifar100-lt place=() packs=${LONGTAIL_SHARED:-}/data
  [ -n "$root" ] && place=(--data-root "$root")
  if [ -z "$root" ] && [ -d "$packs" ] && [ -z "$show" ]; then
    ten=npz:$work/cifar10_lt.npz place=(--data-root "$work/cifar")
    "$python" docs/cifar10_lt/prepare.py "$packs" "$work/cifar10_lt.npz" ${dry:+--size 8 --largest 200} || failed=1
    "$python" "$packs/unpack.py" cifar100 "$work/cifar" || failed=1
  fi
  if wanted baselines; then
    table "Published baseline, CIFAR-10-LT at imbalance 100: 30.18 % error" bag_of_tricks/1 "$ten" "${place[@]}"
    table "Published baseline, CIFAR-100-LT at imbalance 100: 61.73 % error" bag_of_tricks/1 "$hundred" "${place[@]}"
  fi
  if wanted table; then
    table "Bag of Tricks, table 10, as much as fits into $seconds s" bag_of_tricks/10 "$ten" "${place[@]}"
  fi
fi
[ -n "$show" ] || echo "Appended to $out"
exit $failed
