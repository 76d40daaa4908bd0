#!/bin/bash
# A TPU pod slice: the same command on every host of it.
#   bash docs/launch/tpu_pod.sh TPU_NAME ZONE BUCKET_MOUNT RECIPE [flags]
# BUCKET_MOUNT is a folder that all hosts see (a mounted bucket or NFS): checkpoints need one.
set -euo pipefail
NAME=$1; ZONE=$2; SHARED=$3; RECIPE=$4; shift 4

gcloud compute tpus tpu-vm scp --recurse --zone "$ZONE" --worker=all . "$NAME:unified_jax"
gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "
  cd unified_jax &&
  python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]' &&
  .venv/bin/python train.py $RECIPE --run-dir $SHARED/runs/$RECIPE --hosts.coordinator auto \
    --mesh.data 1 --mesh.fsdp -1 --xla recommended $*"
