"""Hugging Face checkpoints: safetensors files, and weights in FP8, INT4 and 16 bits."""
