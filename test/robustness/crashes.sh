#!/usr/bin/env bash
# The agent dies at every point of its life, those too that CI leaves out; the
# next one serves, and leaves the node as it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
SANFRAN_CRASH_LONG=true internal/tools/integration.sh -v -run 'TestEveryCrashIsRecoveredFrom|TestAllCrashPointsAreListed' ./nodeagent
