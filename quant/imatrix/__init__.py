"""Importance of columns: collecting, files, use."""
