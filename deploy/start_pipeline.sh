#!/usr/bin/env bash
# Sets everything up on the first run, then runs the whole pipeline on one machine.
#   ./deploy/start_pipeline.sh [--events FILE --items FILE] [--dataset NAME]
#                              [--rate EVENTS_PER_S | --speedup X] [--drain] [--fresh] [--data-dir DIR]
# `./deploy/start_pipeline.sh --help` lists every option.
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
exec "$root/.venv/bin/sparc" up "$@"
