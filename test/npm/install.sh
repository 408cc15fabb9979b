#!/usr/bin/env bash
# Installs the packages of package-lock.json into the cache, once for each lock
# file, and prints the folder that has them. No script of a package runs: what is
# native comes built inside the packages.
set -euo pipefail
cd "$(dirname "$0")"
cache=${SANFRAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sanfran}/npm
key=$(cat package.json package-lock.json .npmrc | sha256sum | cut -c1-16)
done=$cache/$key
if [ ! -d "$done" ]; then
  echo "test/npm: installing the npm packages of the test (about 400 MB, once)" >&2
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.installing-XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  cp package.json package-lock.json .npmrc "$tmp"
  npm --prefix "$tmp" ci --ignore-scripts --loglevel=error >&2
  chmod 755 "$tmp"
  # Another run may have been faster.
  mv -T "$tmp" "$done" 2>/dev/null || [ -d "$done" ]
fi
echo "$done"
