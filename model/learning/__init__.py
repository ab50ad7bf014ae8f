"""The learner: one call for one micro-batch."""
