"""Adapter folders that leave the machine they were made on."""
