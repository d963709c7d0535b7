"""Trained adapters in other forms."""
