"""SPARC: item tower, RQ-VAE, user tower, interest head, and the trainer that learns online."""
