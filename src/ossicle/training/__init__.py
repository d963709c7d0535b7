"""The one trainer, for every task."""
