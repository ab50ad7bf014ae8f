"""The models that SPARC is compared with, all updated online from the same data."""
