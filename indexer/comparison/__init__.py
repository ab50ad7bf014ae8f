"""Two published versions, side by side."""
