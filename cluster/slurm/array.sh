#!/usr/bin/env bash
#SBATCH --job-name=evalsuite
#SBATCH --array=1-4
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
# One share of a run for each task of the array. The tasks need no connection to each other: receipts in the run
# directory make their shares one run. Tasks count from 1, without gaps: --array=1-N.
#
#   sbatch --array=1-32 cluster/slurm/array.sh --model pixnerd-xl-512 --output /shared/runs/a --num-samples 50000
#   evalsuite evaluate /shared/runs/a        (scores it, or says which --array= is missing)
#
# Some of the 32 shares again, with the count that they had; or all that is missing in any other number of tasks:
#
#   sbatch --array=3,7-9 --export=ALL,EVALSUITE_PARTS=32 cluster/slurm/array.sh (the same options)
#   sbatch --array=1-8 cluster/slurm/array.sh (the same options)
#
# 90 s before the time limit Slurm sends SIGUSR1 to this script, which passes it on; evalsuite commits what it has in
# hand and exits with 85, and the task queues itself again. A preempted task is queued again by Slurm (--requeue).
set -uo pipefail

part="${SLURM_ARRAY_TASK_ID:?start this with sbatch --array=1-N}/${EVALSUITE_PARTS:-$SLURM_ARRAY_TASK_COUNT}"
evalsuite generate "$@" --part "$part" &
worker=$!
trap 'kill -USR1 "$worker" 2>/dev/null' USR1
trap 'kill -TERM "$worker" 2>/dev/null' TERM
while true; do # a signal ends `wait` early, before the command has ended
  wait "$worker"
  code=$?
  kill -0 "$worker" 2>/dev/null || break
done

if [ "$code" -eq 85 ]; then
  echo "share $part is not complete: queued again"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
