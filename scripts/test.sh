#!/usr/bin/env bash
# Lint, then run the tests, two at a time. Arguments are passed to pytest: scripts/test.sh -m "not slow" tests/detection
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
bash scripts/lint.sh
# Use one thread per process: with two processes on the same cores, more threads would busy-wait for each other.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n 2 "$@"
