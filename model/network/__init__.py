"""The layers and losses."""
