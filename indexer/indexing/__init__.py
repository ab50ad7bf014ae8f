"""The process: items and handovers in, published versions out."""
