"""Recipes, and what is built from them."""
