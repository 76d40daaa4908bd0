#!/bin/bash
# Several TPU slices as one run: parameters are cut within a slice (fsdp, over its fast links) and replicated between
# slices (data, over the data-centre network). Made with queued resources, which set MEGASCALE_* on every host.
#   bash docs/launch/multislice.sh QUEUED_NAME ZONE SLICES TYPE CHIPS_A_SLICE SHARED RECIPE [flags]
set -euo pipefail
NAME=$1; ZONE=$2; SLICES=$3; TYPE=$4; CHIPS=$5; SHARED=$6; RECIPE=$7; shift 7

gcloud compute tpus queued-resources create "$NAME" --zone "$ZONE" --node-count "$SLICES" --node-prefix "$NAME" \
  --accelerator-type "$TYPE" --runtime-version v2-alpha-tpuv5
for ((i = 0; i < SLICES; i++)); do
  gcloud compute tpus tpu-vm ssh "$NAME-$i" --zone "$ZONE" --worker=all --command "
    cd unified_jax && .venv/bin/python train.py $RECIPE --run-dir $SHARED/runs/$RECIPE --hosts.coordinator auto \
      --mesh.data $SLICES --mesh.fsdp $CHIPS --xla recommended $*" &
done
wait
