#!/usr/bin/env bash
# The same set-up as start_pipeline.sh, then lint, types, floors, unused code and tests. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
cd "$root"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo
.venv/bin/vulture --min-confidence 60
exec .venv/bin/python -m pytest "$@"
