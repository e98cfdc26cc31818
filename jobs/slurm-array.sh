#!/usr/bin/env bash
#SBATCH --job-name=evalsuite
#SBATCH --array=1-4
#SBATCH --gpus=1
#SBATCH --signal=B:TERM@60
# One share of a run for each task of the array; tasks need no connection to each other. A task that is
# preempted or resubmitted goes on where its receipts end. Tasks must be numbered from 1 without gaps.
#
#   sbatch jobs/slurm-array.sh pixnerd-digits /shared/runs/digits 2000
#   evalsuite evaluate /shared/runs/digits          (when all tasks have ended)
set -euo pipefail
model=$1 output=$2 num_samples=$3
exec evalsuite generate --model "$model" --output "$output" --num-samples "$num_samples" \
  --part "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}"
