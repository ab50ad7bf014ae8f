"""The online trainer: journal, checkpoints, sources, schedule."""
