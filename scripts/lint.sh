#!/usr/bin/env bash
# Check format, lint rules and types without changing any file. To fix what can be fixed automatically:
#   ruff format . && ruff check --fix .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
ruff format --check .
ruff check .
mypy
