#!/usr/bin/env bash
#SBATCH --job-name=evalsuite
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
# One Ray cluster for one job: `ray symmetric-run` starts Ray on every node, runs the command on the first one, and
# stops Ray when it ends. The exit code is the command's.
#
#   sbatch --nodes=4 cluster/slurm/ray.sh run --model pixnerd-xl-512 --output /shared/runs/a
#
# --exclusive matters: symmetric-run refuses a node on which another Ray runs, and its `ray stop` at the end stops
# whatever Ray of yours is there. --address is added to the command, which must take it: run, generate or sweep, or
# evaluate of samples that someone else made (a run is evaluated by one process, without a cluster).
#
# 90 s before the time limit this script queues the job again; Slurm then ends it, and the next start goes on from the
# last committed shards. A preempted job is queued again by Slurm (--requeue).
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=${EVALSUITE_RAY_PORT:-6379}

# One token for the nodes of this job, from the environment only; whoever has it may run code on them.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(openssl rand -hex 32)}
export RAY_USAGE_STATS_ENABLED=0

trap 'echo "out of time: queued again"; scontrol requeue "$SLURM_JOB_ID"' USR1
set +e
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --disable-usage-stats \
  -- evalsuite "$@" --address "$head_ip:$port" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended `wait` before the command ended
  wait "$step"
  code=$?
done
exit "$code"
