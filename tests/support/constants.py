"""What all tests know by name."""

from __future__ import annotations

PATIENCE = 20.0
"""Seconds that a test waits for what should come at once, before it fails."""

CONVERSATION = "550e8400-e29b-41d4-a716-446655440000"
