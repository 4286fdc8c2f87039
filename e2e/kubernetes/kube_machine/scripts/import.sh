#!/bin/sh
# import.sh NODE: brings all images of the machine that the node does not have yet into its containerd. Runs in the
# node's namespaces.
set -eu
disk=/run/machine/nodes/$1
tries=0
until [ -S /run/containerd/containerd.sock ]; do
  tries=$((tries + 1))
  [ $tries -le 600 ] || { echo "containerd of $1 does not answer" >&2; exit 1; }
  sleep 0.1
done
for image in /run/machine/images/*.tar; do
  mark=$disk/imported/$(basename "$image" .tar)
  [ ! -e "$mark" ] || continue
  /run/bin/ctr --namespace k8s.io images import --local "$image" >/dev/null
  touch "$mark"
done
