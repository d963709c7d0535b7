"""Ossicle adapts big frozen models to hear."""

__version__ = "0.1.0"
