#!/usr/bin/env bash
# The agent's process killed 100 times under load: no container is started anew, no
# connection to one is lost.
set -euo pipefail
cd "$(dirname "$0")/../.."
RACE=0 SANFRAN_TEST_KILLS=${SANFRAN_TEST_KILLS:-100} internal/tools/integration.sh -v -timeout 30m -run TestAnAgentKilledUnderLoad ./nodeagent
