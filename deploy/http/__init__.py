"""The door of every HTTP server of the pipeline: who may come in, how many, how large."""
