"""Stores of conversations and replies, on real servers."""
