"""Soft search: from a history to the best items, and all it asks on the way."""
