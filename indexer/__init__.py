"""Code assignment, drift, per-code item indexes, snapshots and soft search."""
