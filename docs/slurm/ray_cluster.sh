#!/bin/bash
# A Ray cluster of two nodes for one search, which goes back into the queue until the search is complete:
#   NAME=cifar RESULTS=/shared/results sbatch docs/slurm/ray_cluster.sh --space spaces/full_combo.py --data cifar100-lt
#SBATCH --job-name=longtail
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

# without a token, whoever reaches the port can run code as you
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:${PORT:-6379}"
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="${PORT:-6379}" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
until ray status --address "$address" >/dev/null 2>&1; do sleep 2; done
srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" \
    ray start --address "$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
until [ "$(ray status --address "$address" 2>/dev/null | grep -c node_)" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 2; done

if [ -e "$RESULTS/$NAME/search.json" ]; then
    options=(--resume "$NAME")
else
    options=(--name "$NAME" "$@")
fi
longtail-tune search "${options[@]}" --output "$RESULTS" --address "$address" &
search=$!

# Slurm sends its signals to this shell, which passes them on and waits until the search has ended
trap 'kill -USR1 "$search"' USR1
trap 'kill -TERM "$search"' TERM
while kill -0 "$search" 2>/dev/null; do wait "$search"; done
wait "$search"
code=$?
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
kill $(jobs -p) 2>/dev/null
exit "$code"
