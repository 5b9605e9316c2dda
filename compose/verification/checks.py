"""The checks, each against something that shares nothing with what it judges."""

from __future__ import annotations

DRAWS = 20_000
EXACT = 1e-6
