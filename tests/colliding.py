"""Two texts that have the same number inside, found by a search through four billion of them."""

from __future__ import annotations

ONE, OTHER = "u:1ee3438665313ceb", "u:322fd51147379ca6"
NUMBER = 5073857930449106816
