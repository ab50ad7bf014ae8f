"""Event schemas, topics, and the PyFlink job that turns clicks into user sequences."""
