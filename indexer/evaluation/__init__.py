"""SPARC as it is served, under the protocol of `model.evaluation`."""
