"""What a shop says over HTTP, and how it gets into Kafka: all of a request, or nothing.

records       requests as they are written, and the records that they become
item_changes  items that are listed, changed and withdrawn, one after the other
kafka_writer  requests that come together are one transaction
routes        the paths
"""
