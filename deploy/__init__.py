"""Configuration, process supervision, model registry, retrieval service, the `sparc` command."""
