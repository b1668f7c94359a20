#!/usr/bin/env bash
# Check formatting, lint rules and types without changing any files. To apply automatic fixes:
#   ruff format . && ruff check --fix .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
ruff format --check .
ruff check .
mypy
