#!/bin/bash
# Converts one model as a Slurm array job: a part for each task, then one job that ends it.
#   jang plan "$MODEL" --profile JANG_4K --shard-size 2GB -o plan.json
#   MODEL=/models/name OUTPUT=/models/name-4K PLAN=plan.json PARTS=8 bash slurm.sh
# MODEL, OUTPUT and PLAN lie on a file system that all nodes see. A task that was killed or requeued
# continues where its part stopped.
#SBATCH --job-name=jang-convert
#SBATCH --cpus-per-task=16
#SBATCH --mem=8G
#SBATCH --requeue
set -euo pipefail

if [ -z "${SLURM_JOB_ID:-}" ]; then  # called by hand: submits itself, and the end behind it
  parts=$(sbatch --parsable --array="1-$PARTS" --export=ALL "$0")
  sbatch --dependency="afterok:$parts" --export=ALL,FINALIZE=1 "$0"
  exit
fi

if [ -n "${FINALIZE:-}" ]; then
  jang finalize --plan "$PLAN" --output "$OUTPUT"
else
  jang convert --plan "$PLAN" --part "$SLURM_ARRAY_TASK_ID/$PARTS" --model "$MODEL" --output "$OUTPUT"
fi
