"""From a model's export to lists: assignment, drift, what is rebuilt."""
