"""How quality is measured: the protocols, their prediction file, and every metric."""
