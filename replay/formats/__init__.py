"""One module per family of log files, and their recognition by content."""
