"""Published versions on disk."""
