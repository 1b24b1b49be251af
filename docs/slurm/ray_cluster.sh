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

source "${SLURM_SUBMIT_DIR:-.}/docs/slurm/run.sh" || exit 1

# without a token, whoever reaches the port can run code as you
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=${PORT:-$((20000 + SLURM_JOB_ID % 10000))} # jobs that share a node need different ports
address="$head:$port"

# wait_for NODES: waits until so many nodes have joined; a cluster that does not start ends the job
wait_for() {
    until [ "$(ray status --address "$address" 2>/dev/null | grep -c node_)" -ge "$1" ]; do
        if [ "$SECONDS" -gt 600 ]; then
            echo "the Ray cluster at $address has fewer than $1 nodes after $SECONDS s; read the output of ray start above" >&2
            finish 1
        fi
        sleep 2
    done
}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
wait_for 1
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --address "$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
    wait_for "$SLURM_JOB_NUM_NODES"
fi

extra=(--address "$address")
search "$@"
