#!/bin/sh
# private.sh FOLDER BIN COMMAND...: runs a command of the machine in FOLDER with /run and /tmp of its own, in the mount
# namespace that it was started in. The folder is /run/machine there and the executables /run/bin, wherever they lie
# outside: so paths of sockets are short. The controller manager and the kubelets know no other place for host-path
# volumes than /tmp/hostpath_pv: here that is the machine's own folder `volumes`.
set -eu
folder=$1 bin=$2
shift 2
# A copy of these mounts would keep other nodes' network namespaces alive.
while umount -l /run/netns 2>/dev/null; do :; done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/machine /run/bin /run/netns /run/lock
mount --bind "$folder" /run/machine
mount --bind "$bin" /run/bin
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir /tmp/hostpath_pv
mount --bind /run/machine/volumes /tmp/hostpath_pv
export PATH="/run/bin:$PATH"
cd /run/machine
exec "$@"
