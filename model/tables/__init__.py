"""What is counted and remembered beside the weights."""
