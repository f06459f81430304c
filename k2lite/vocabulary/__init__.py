"""Vocabularies in their different files, and how text is cut into tokens."""
