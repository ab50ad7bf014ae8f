"""Inference with exported weights."""
