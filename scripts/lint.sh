#!/usr/bin/env bash
# Format and lint the whole repository, changing nothing. To fix what can be fixed: ruff format . && ruff check --fix .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
ruff format --check .
ruff check .
