"""Amazon review logs (and synthetic ones) replayed as a simulated stream of click events."""
