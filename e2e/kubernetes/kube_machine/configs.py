"""Configurations of Kubernetes' parts, as text. JSON is YAML too."""

from __future__ import annotations

import json
from typing import Any

from kube_machine.network import DNS_ADDRESS, GATEWAY, POD_NETWORK, SERVICE_NETWORK

# The machine's folder as its processes see it (scripts/private.sh).
HERE = "/run/machine"
PKI = f"{HERE}/pki"
API = f"https://{GATEWAY}:6443"
# Where the API server tells what was asked of it.
AUDIT_LOG = "log/audit.log"
SANDBOX_IMAGE = "localhost/pause:1"


def audit_policy() -> str:
    """Who asked for what: all that service accounts ask, and every deletion and eviction with its options.

    The system's own accounts ask without end and are left out, and so is the emptying of a deleted namespace.
    """
    system = {"level": "None", "userGroups": ["system:serviceaccounts:kube-system", "system:nodes"]}
    noise = {
        "": ["events"],
        "events.k8s.io": ["events"],
        "coordination.k8s.io": ["leases"],
        "resource.k8s.io": ["resourceslices"],
    }
    deletion: dict[str, Any] = {"level": "Request", "verbs": ["delete", "deletecollection"]}
    eviction = {
        "level": "Request",
        "verbs": ["create"],
        "resources": [{"group": "", "resources": ["pods/eviction"]}],
    }
    return json.dumps(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "omitManagedFields": True,
            "rules": [
                {"level": "None", "users": ["system:serviceaccount:kube-system:namespace-controller"]},
                {"level": "None", "users": ["system:apiserver"]},
                {
                    "level": "None",
                    "userGroups": ["system:serviceaccounts:kube-system", "system:nodes"],
                    "resources": [{"group": group, "resources": names} for group, names in noise.items()],
                },
                deletion,
                eviction,
                system,
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            ],
        },
        indent=1,
    )


def corefile() -> str:
    """CoreDNS: its answers come out of memory, so that a cache would only hold back what is new."""
    return f""".:53 {{
    bind {GATEWAY}
    errors
    cache {{
        success 2048 5
        denial 2048 1
    }}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {PKI}/coredns.conf
        pods insecure
        ttl 5
    }}
}}
"""


def containerd(snapshotter: str) -> str:
    """The node's container runtime. Folders are its defaults: the node has a /run and a /var/lib of its own."""
    return f"""version = 3
disabled_plugins = ['io.containerd.nri.v1.nri']
[plugins.'io.containerd.cri.v1.images']
  snapshotter = '{snapshotter}'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{SANDBOX_IMAGE}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni', '/opt/cni/bin']
    conf_dir = '/var/lib/cni/conf'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
"""


def pod_network(network: str) -> str:
    """How containerd joins a pod to its node's network."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": network}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        # Does not survive the node's crash, as the addresses do not.
        "dataDir": "/run/cni",
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": ipam,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}, indent=1)


def kubelet(address: str, cgroup: str, resolv_conf: str) -> str:
    """A node's kubelet."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": f"{PKI}/ca.crt"}},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_ADDRESS],
            "resolvConf": resolv_conf,
            # Kubelets on one computer each need a control group of their own, or each removes the others' pods.
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # The disk and the memory are those of a computer that does other work too.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            # A node is missed after 12 s (--node-monitor-grace-period): it must give several signs of life in that.
            "nodeStatusUpdateFrequency": "3s",
            "nodeLeaseDurationSeconds": 12,
        },
        indent=1,
    )


def proxy(node: str) -> str:
    """A node's kube-proxy."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{PKI}/proxy.conf"},
            "mode": "nftables",
            "clusterCIDR": POD_NETWORK,
            "hostnameOverride": node,
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
        indent=1,
    )


def objects() -> list[tuple[str, dict[str, Any]]]:
    """What every cluster has from the start: paths of collections and the objects to make in them."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    read = ["list", "watch"]
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        (
            f"{rbac}/clusterroles",
            {
                "kind": "ClusterRole",
                "metadata": {"name": "system:coredns"},
                "rules": [
                    {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                ],
            },
        ),
        (
            f"{rbac}/clusterrolebindings",
            {
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "system:coredns"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
            },
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "kind": "StorageClass",
                "metadata": {
                    "name": "standard",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/host-path",
                # As with most providers' default classes.
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        ),
        (
            "/api/v1/namespaces/kube-system/services",
            {"kind": "Service", "metadata": {"name": "kube-dns"}, "spec": {"clusterIP": DNS_ADDRESS, "ports": ports}},
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
            {
                "kind": "EndpointSlice",
                "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": True}}],
                "ports": ports,
            },
        ),
    ]


def component(name: str) -> list[str]:
    """The command line of a part of the control plane."""
    etcd = "http://127.0.0.1:2379"
    # One of each: nobody to elect among.
    alone = ["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"]
    return {
        # A crash of the whole computer may cost the cluster's state; a killed etcd loses nothing.
        "etcd": [
            "etcd",
            f"--data-dir={HERE}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        "apiserver": [
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--advertise-address={GATEWAY}",
            f"--tls-cert-file={PKI}/apiserver.crt",
            f"--tls-private-key-file={PKI}/apiserver.key",
            f"--client-ca-file={PKI}/ca.crt",
            f"--kubelet-client-certificate={PKI}/admin.crt",
            f"--kubelet-client-key={PKI}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={PKI}/sa.key",
            f"--service-account-signing-key-file={PKI}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            "--allow-privileged=true",
            # Service addresses mean nothing in the control plane's namespace: webhooks are called by pods' addresses.
            "--enable-aggregator-routing=true",
            f"--audit-policy-file={HERE}/audit-policy.json",
            f"--audit-log-path={HERE}/{AUDIT_LOG}",
            # Megabytes of each file, and how many old ones are kept.
            "--audit-log-maxsize=20",
            "--audit-log-maxbackup=3",
            "--profiling=false",
        ],
        "controller-manager": [
            "kube-controller-manager",
            f"--kubeconfig={PKI}/controller-manager.conf",
            f"--service-account-private-key-file={PKI}/sa.key",
            f"--root-ca-file={PKI}/ca.crt",
            f"--cluster-signing-cert-file={PKI}/ca.crt",
            f"--cluster-signing-key-file={PKI}/ca.key",
            "--use-service-account-credentials",
            "--enable-hostpath-provisioner=true",
            "--node-monitor-grace-period=12s",
            "--node-monitor-period=2s",
            *alone,
        ],
        "scheduler": ["kube-scheduler", f"--kubeconfig={PKI}/scheduler.conf", *alone],
        "coredns": ["coredns", "-conf", f"{HERE}/Corefile"],
    }[name]
