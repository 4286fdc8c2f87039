#!/usr/bin/env bash
# What `make test-e2e` and `make test-long` run: run-tests.sh [--long] [pytest's arguments].
# --long adds what takes minutes: 50 kills and the like.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "${1:-}" = --long ]; then
  shift
  # The last -m counts; this one selects all tests.
  set -- -m "long or not long" "$@"
fi
exec "$here/test" "$@"
