"""MLflow: every published version registered, with its files, metrics and aliases."""
