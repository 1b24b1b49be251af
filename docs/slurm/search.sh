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

source "${SLURM_SUBMIT_DIR:-.}/docs/slurm/run.sh" || exit 1
search "$@"
