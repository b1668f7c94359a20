#!/usr/bin/env bash
# Train on one or more nodes of a SLURM cluster. Submit it from the folder to which RUN_DIR is relative:
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00 \
#       scripts/slurm_train.sh RUN_DIR CONFIG [KEY=VALUE ...]
#
# Two minutes before the time limit, or when preempted, the run saves a checkpoint and exits, and the job is requeued.
# A requeued or resubmitted job resumes from the last checkpoint in RUN_DIR. If the job is submitted from a folder with
# a .venv, it uses that; otherwise `torchrun` and the package must be on PATH. torchrun restarts failed workers up to
# MAX_RESTARTS times (default: 3).
#
# `B:` sends the signal only to this script, which forwards it, so that each process receives it once.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --job-name=retinanet
set -euo pipefail

(($# >= 2)) || { echo "slurm_train: expected RUN_DIR CONFIG [KEY=VALUE ...], found: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || { echo "slurm_train: not in a SLURM job; start it with sbatch" >&2; exit 2; }
folder=$1
config=$2
shift 2

# sbatch runs a copy of this file, so its location does not reveal where the repository is.
if [[ -d .venv/bin ]]; then
    export PATH="$PWD/.venv/bin:$PATH"
fi
# torchrun's shared store outlives a restart, and may still contain the addresses of dead workers.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# srun does not inherit this from sbatch.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${hosts%%$'\n'*}
echo "slurm_train: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NUM_NODES:-1} nodes from $head_node"

# Remove any old marker: only one written during this start may requeue the job.
rm -f "$folder/preempted"
# Before srun starts: a signal must never find the script without its trap.
trap 'kill -TERM "${!-}" 2>/dev/null || true' TERM
# A node that exits must not terminate the others, which may still be saving; torchrun handles failures itself.
srun --kill-on-bad-exit=0 torchrun \
    --nnodes="${SLURM_JOB_NUM_NODES:-1}" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head_node:$((20000 + SLURM_JOB_ID % 10000))" \
    --rdzv-id="$SLURM_JOB_ID" \
    --max-restarts="${MAX_RESTARTS:-3}" \
    --module retinanet train "$config" "$@" --output "$folder" --resume=auto &
srun=$!

# A trapped signal interrupts `wait`, so wait again.
code=0
wait "$srun" || code=$?
while kill -0 "$srun" 2>/dev/null; do
    code=0
    wait "$srun" || code=$?
done

if [[ ! -e $folder/preempted ]]; then
    exit "$code"
fi
# A cancelled job is no longer RUNNING and must not be requeued.
if [[ $(scontrol show job "$SLURM_JOB_ID") != *JobState=RUNNING* ]]; then
    echo "slurm_train: stopped because the job is ending; submit it again to continue"
    exit "$code"
fi
echo "slurm_train: stopped before the end of training: $(<"$folder/preempted"); requeued"
scontrol requeue "$SLURM_JOB_ID"
