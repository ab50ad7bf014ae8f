"""What can go wrong with the registry; its own file, so that settings can raise it, too."""

from __future__ import annotations


class RegistryError(RuntimeError):
    """The registry refuses what is asked of it, or its local record is unreadable."""
