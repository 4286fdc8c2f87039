#!/usr/bin/env bash
# What `make test-kubernetes` and `make test-kubernetes-long` run: run-kubernetes-tests.sh [--long] [pytest's arguments].
# They start a real Kubernetes on this computer, which needs Linux and root; with MILLRACE_E2E_KUBECONFIG they use that
# one, and leave out what needs nodes to crash.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "${1:-}" = --long ]; then
  shift
  # The last -m counts; this one selects all tests.
  set -- -m "long or not long" "$@"
fi
if [ -z "${MILLRACE_E2E_KUBECONFIG:-}" ] && { [ "$(id -u)" != 0 ] || [ "$(uname -s)" != Linux ]; }; then
  if [ -n "${MILLRACE_E2E_REQUIRE_ALL:-}" ]; then
    echo "the tests on Kubernetes need Linux and root, or MILLRACE_E2E_KUBECONFIG" >&2
    exit 1
  fi
  echo "left out: the tests on Kubernetes need Linux and root, or MILLRACE_E2E_KUBECONFIG" >&2
  exit 0
fi
exec "$here/test" kubernetes/tests "$@"
