#!/usr/bin/env bash
# Lints and format of the tests' Python, as ruff.toml says: lint.sh [--fix]. Ruff is kept in the cache folder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
version=0.17.6
venv=$cache/ruff-$version
if [ ! -e "$venv/.complete" ]; then
  rm -rf "$venv"
  # It installs what Python lacks for this.
  python3 -c 'import ensurepip' 2>/dev/null || "$here/setup.sh"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet "ruff==$version"
  touch "$venv/.complete"
fi
cd "$here"
if [ "${1:-}" = --fix ]; then
  "$venv/bin/ruff" check --config ruff.toml --fix . ../charts ../image
  exec "$venv/bin/ruff" format --config ruff.toml . ../charts ../image
fi
"$venv/bin/ruff" check --config ruff.toml . ../charts ../image
exec "$venv/bin/ruff" format --config ruff.toml --check . ../charts ../image
