#!/usr/bin/env bash
# Lint, then run the tests, two at a time.
#
#   bash scripts/test.sh                    the quick tests: minutes
#   bash scripts/test.sh --all              also the slow tests: compiled steps, killed and resumed runs, real commands
#   bash scripts/test.sh tests/detection    further arguments are passed to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev

selection=(-m "not slow")
if [[ ${1:-} == --all ]]; then
    selection=()
    shift
fi
bash scripts/lint.sh
# Use one thread per process: with two processes on the same cores, more threads would busy-wait for each other.
# Steal work: otherwise one process would wait while the other runs the last few long tests.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n 2 --dist worksteal "${selection[@]+"${selection[@]}"}" "$@"
