#!/usr/bin/env bash
# Gets everything that the tests across processes and the benchmark need, into a cache
# folder outside the clone. Safe to run again at any time: what is there is not made anew.
#
#   e2e/setup.sh          set up, telling what it does
#   e2e/setup.sh --env    the same, then print KEY=VALUE lines for a shell's `eval`
#
# Needs Rust's linker (cc) and Python 3.11 or newer. Java, Maven and Go serve the tests
# against Kafka and grpcurl: missing ones are installed with apt where this runs as root.
# What can't be had is named; the tests that need it then skip and say so.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
grpcurl_version=v1.9.4
nats_version=v0.5.0
mkdir -p "$cache/bin"

say() { printf 'setup: %s\n' "$*" >&2; }
hash_of() { cat "$@" | sha256sum | cut -c1-12; }

# Two runs at once (a developer's and CI's) must not write the same folder.
exec 9>"$cache/setup.lock"
flock 9

# Runs a command quietly; shows its output only if it fails.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

apt_updated=no
# apt_install PACKAGE...: installs them, or says what to install.
apt_install() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "missing; on Debian: apt-get install $*"
    return 1
  fi
  say "installing $* ..."
  if [ $apt_updated = no ]; then
    quietly apt-get update || true
    apt_updated=yes
  fi
  quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" || {
    say "could not install $*"
    return 1
  }
}
# have COMMAND PACKAGE...: true if the command is there, after installing the packages if need be.
have() {
  command -v "$1" >/dev/null || apt_install "${@:2}"
}

# --- Python -------------------------------------------------------------------------------
have python3 python3 python3-venv || exit 1
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "Python 3.11 or newer is needed, this is $(python3 --version)"
  exit 1
}
python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv || exit 1
venv=$cache/venv-$(hash_of "$here/requirements.txt")
if [ ! -e "$venv/.complete" ]; then
  say "Python packages -> $venv ..."
  rm -rf "$venv"
  python3 -m venv "$venv"
  quietly "$venv/bin/pip" install --quiet -r "$here/requirements.txt"
  touch "$venv/.complete"
fi

# --- stubs, exactly as somebody who only has the .proto files would make them ---------------
mapfile -t protos < <(find "$repo/proto/millrace" -name '*.proto' | sort)
stubs=$cache/stubs-$(hash_of "${protos[@]}" "$here/requirements.txt")
if [ ! -e "$stubs/.complete" ]; then
  say "Python stubs -> $stubs ..."
  rm -rf "$stubs"
  mkdir -p "$stubs"
  quietly "$venv/bin/python" -m grpc_tools.protoc -I"$repo/proto" \
    --python_out="$stubs" --grpc_python_out="$stubs" "${protos[@]}"
  touch "$stubs/.complete"
fi

# --- the benchmark's limits: what loopback TCP and the disk give without any product ---------
limits=
if have cc gcc libc6-dev; then
  limits=$cache/bin/limits-$(hash_of "$here/bench/limits.c")
  if [ ! -x "$limits" ]; then
    say "limits -> $limits ..."
    quietly cc -O2 -Wall -Wextra -o "$limits.new" "$here/bench/limits.c"
    mv "$limits.new" "$limits"
  fi
fi

# --- Kafka ----------------------------------------------------------------------------------
kafka_lib= kafka_classes=
if have java openjdk-17-jdk-headless && have javac openjdk-17-jdk-headless; then
  lib=$cache/kafka-$(hash_of "$here/kafka/pom.xml")
  if [ ! -e "$lib/.complete" ] && have mvn maven; then
    say "Kafka's jars (54 MB) -> $lib ..."
    rm -rf "$lib"
    kafka_jars() {
      quietly mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$lib" -DincludeScope=runtime && touch "$lib/.complete"
    }
    # A registry that refuses once often answers a moment later.
    kafka_jars || { sleep 5; kafka_jars; } \
      || say "could not get Kafka's jars: tests and measures against Kafka will be skipped"
  fi
  if [ -e "$lib/.complete" ]; then
    kafka_lib=$lib
    kafka_classes=$cache/kafka-classes-$(hash_of "$here"/kafka/*.java "$here/kafka/pom.xml")
    if [ ! -e "$kafka_classes/.complete" ]; then
      say "Kafka helpers -> $kafka_classes ..."
      rm -rf "$kafka_classes"
      mkdir -p "$kafka_classes"
      quietly javac -d "$kafka_classes" -cp "$lib/*" "$here"/kafka/*.java
      touch "$kafka_classes/.complete"
    fi
  fi
fi

# --- Go tools ---------------------------------------------------------------------------------
# go_tool NAME MODULE VERSION: installs one Go command into the cache's bin folder.
go_tool() {
  local name=$1 module=$2 version=$3
  [ -x "$cache/bin/$name-$version" ] && return 0
  have go golang-go || return 1
  say "$name $version (about a minute) ..."
  local into
  into=$(mktemp -d)
  if quietly env GOBIN="$into" GOFLAGS=-p=2 go install "$module@$version"; then
    mv "$into/$name" "$cache/bin/$name-$version"
    rm -rf "$into"
  else
    rm -rf "$into"
    say "could not build $name: tests that use it will be skipped"
    return 1
  fi
}
grpcurl= nats=
go_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl $grpcurl_version && grpcurl=$cache/bin/grpcurl-$grpcurl_version
# The NATS command is for `make bench` alone: e2e/bench/run asks for it.
if [ -n "${MILLRACE_E2E_WITH_NATS:-}" ]; then
  go_tool nats github.com/nats-io/natscli/nats $nats_version && nats=$cache/bin/nats-$nats_version
fi

if [ "${1:-}" = --env ]; then
  printf '%s=%q\n' \
    MILLRACE_E2E_PYTHON "$venv/bin/python" \
    MILLRACE_E2E_STUBS "$stubs" \
    MILLRACE_E2E_LIMITS "$limits" \
    MILLRACE_E2E_KAFKA_LIB "$kafka_lib" \
    MILLRACE_E2E_KAFKA_CLASSES "$kafka_classes" \
    MILLRACE_E2E_GRPCURL "$grpcurl" \
    MILLRACE_E2E_NATS "$nats"
else
  say "ready (in $cache)"
fi
