"""Tests on a real card. They skip themselves where there is none, and need torch, triton, numpy and gguf alone."""
