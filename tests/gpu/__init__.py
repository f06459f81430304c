"""Tests on a real card, which skip themselves where there is none.

They need pytest, torch, triton, numpy, safetensors and gguf alone.
"""
