#!/usr/bin/env bash
# The same set-up as start_pipeline.sh, then lint, types and tests. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
cd "$root"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
