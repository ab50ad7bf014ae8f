"""The lists of items per code, in memory."""
