#!/bin/sh
# node.sh NODE ADDRESS ZONE: a node's first process, started by private.sh in network, mount and process namespaces of
# the node's own. When it is killed, all that runs on the node ends with it. What lies in nodes/NODE is the node's disk
# and survives that; /run does not.
set -eu
node=$1 address=$2 zone=$3
disk=/run/machine/nodes/$node log=/run/machine/log
mount --bind "$disk/var-lib" /var/lib
mount --bind "$disk/var-log" /var/log
# Pods' mounts must be seen by the kubelet, and the other way round.
mount --make-rshared /

containerd --config "$disk/containerd.toml" >>"$log/$node-containerd.log" 2>&1 &
sh /run/machine/scripts/import.sh "$node"

# A kubelet that starts before the API server waits longer and longer between its attempts.
until [ -e /run/machine/serving ]; do sleep 0.1; done
kubelet --config "$disk/kubelet.json" --kubeconfig "/run/machine/pki/$node.conf" --hostname-override "$node" \
  --node-ip "$address" --node-labels "topology.kubernetes.io/zone=$zone,topology.kubernetes.io/region=local" \
  >>"$log/$node-kubelet.log" 2>&1 &
kube-proxy --config "$disk/proxy.json" >>"$log/$node-proxy.log" 2>&1 &
wait
