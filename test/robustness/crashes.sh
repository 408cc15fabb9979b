#!/usr/bin/env bash
# The agent dies at every point of its life, those too that CI leaves out, with its
# pod and alone; the next one serves, and leaves the node as it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
SANFRAN_CRASH_LONG=true internal/tools/integration.sh -v -timeout 40m -run 'TestEveryCrashIsRecoveredFrom|TestEveryCrashOfTheAgentAloneIsRecoveredFrom|TestAllCrashPointsAreListed' ./nodeagent
