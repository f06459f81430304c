"""Kimi K2 on machines that people own: the model, tokens, generation and the command line."""

__version__ = "0.1.0"
