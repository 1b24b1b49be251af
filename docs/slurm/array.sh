#!/bin/bash
# Independent jobs that train one search through a shared folder, without Ray; one of them drives it:
#   NAME=cifar RESULTS=/shared/results sbatch docs/slurm/array.sh --space spaces/full_combo.py --data cifar100-lt --workers 64
#SBATCH --job-name=longtail
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

source "${SLURM_SUBMIT_DIR:-.}/docs/slurm/run.sh" || exit 1
run longtail-tune worker "$NAME" --output "$RESULTS" -- "$@"
