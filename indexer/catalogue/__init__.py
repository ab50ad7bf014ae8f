"""What items are besides their vectors: state, validity, category, attributes; and filters."""
