"""Quality from files: the pipeline's learner, indexer and soft search without Kafka and Flink."""
