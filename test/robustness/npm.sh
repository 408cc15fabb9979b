#!/usr/bin/env bash
# Every npm package of test/npm in real containers: twice each, on every Node.js.
set -euo pipefail
cd "$(dirname "$0")/../.."
SANFRAN_NPM_LONG=true internal/tools/integration.sh -v -run TestNpmPackages ./nodeagent
