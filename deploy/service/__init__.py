"""Answers over HTTP: histories that follow Kafka, versions that follow the snapshots."""
