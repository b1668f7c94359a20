#!/usr/bin/env bash
# Lint, then run the tests. Arguments go to pytest: scripts/test.sh -m "not slow" tests/detection
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
bash scripts/lint.sh
python -m pytest "$@"
