"""What parts report, and how it is shown: statuses, figures, freshness."""
