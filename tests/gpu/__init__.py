"""Tests on a real card. They skip themselves where there is none, and need pytest, torch, triton, numpy, safetensors and gguf alone."""
