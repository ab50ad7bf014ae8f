"""Which version serves, and who decided so."""
