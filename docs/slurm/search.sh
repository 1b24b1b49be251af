#!/bin/bash
# One job that runs a search, and goes back into the queue until the search is complete:
#   NAME=cifar RESULTS=/shared/results sbatch docs/slurm/search.sh --space spaces/full_combo.py --data cifar100-lt
#SBATCH --job-name=longtail
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

if [ -e "$RESULTS/$NAME/search.json" ]; then
    options=(--resume "$NAME")
else
    options=(--name "$NAME" "$@")
fi
longtail-tune search "${options[@]}" --output "$RESULTS" &
search=$!

# Slurm sends its signals to this shell, which passes them on and waits until the search has ended
trap 'kill -USR1 "$search"' USR1
trap 'kill -TERM "$search"' TERM
while kill -0 "$search" 2>/dev/null; do wait "$search"; done
wait "$search"
code=$?
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
