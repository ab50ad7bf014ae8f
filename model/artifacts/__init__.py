"""Directories of arrays with a manifest that names, sizes and digests them."""
