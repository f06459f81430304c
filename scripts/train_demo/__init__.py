"""Trains the built-in demo model from the dialogues beside this file; `train` and `export` are the commands."""
