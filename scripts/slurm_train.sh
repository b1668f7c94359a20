#!/usr/bin/env bash
# Train on one or more nodes of a SLURM cluster, from the folder that the run folder is relative to:
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00 \
#       scripts/slurm_train.sh RUN_FOLDER CONFIG [KEY=VALUE ...]
#
# Two minutes before its time is up, or when it is preempted, the run saves and ends, and the job goes back into the
# queue. It goes on from the last checkpoint of RUN_FOLDER, also when it is submitted again. An environment .venv in the
# folder of submission is used; else `torchrun` and the package have to be on PATH. A worker that dies is replaced up to
# MAX_RESTARTS times (3).
#
# B: the signal goes to this script alone, which passes it on, so that it arrives once.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --job-name=retinanet
set -euo pipefail

(($# >= 2)) || { echo "slurm_train: expected RUN_FOLDER CONFIG [KEY=VALUE ...], found: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || { echo "slurm_train: not in a SLURM job; start it with sbatch" >&2; exit 2; }
folder=$1
config=$2
shift 2

# sbatch runs a copy of this file: its own place says nothing about where the repository is.
if [[ -d .venv/bin ]]; then
    export PATH="$PWD/.venv/bin:$PATH"
fi
# torchrun's own store outlives an attempt, and a new one may find the addresses of dead workers in it.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# srun does not take this over from sbatch.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${hosts%%$'\n'*}
echo "slurm_train: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NUM_NODES:-1} nodes from $head_node"

# Only what this start leaves may send the job back.
rm -f "$folder/preempted"
# A node that is through must not end the others, which may still be saving: torchrun looks after its own.
srun --kill-on-bad-exit=0 torchrun \
    --nnodes="${SLURM_JOB_NUM_NODES:-1}" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head_node:$((20000 + SLURM_JOB_ID % 10000))" \
    --rdzv-id="$SLURM_JOB_ID" \
    --max-restarts="${MAX_RESTARTS:-3}" \
    --module retinanet train "$config" "$@" --output "$folder" --resume &
srun=$!
trap 'kill -TERM "$srun" 2>/dev/null || true' TERM

# A trapped signal interrupts wait.
code=0
wait "$srun" || code=$?
while kill -0 "$srun" 2>/dev/null; do
    code=0
    wait "$srun" || code=$?
done

if [[ ! -e $folder/preempted ]]; then
    exit "$code"
fi
# A job that was cancelled is no longer running: it was meant to end.
if [[ $(scontrol show job "$SLURM_JOB_ID") != *JobState=RUNNING* ]]; then
    echo "slurm_train: stopped, and the job is ending; submit it again to go on"
    exit "$code"
fi
echo "slurm_train: stopped in the middle: $(<"$folder/preempted"); back into the queue"
scontrol requeue "$SLURM_JOB_ID"
