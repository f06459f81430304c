"""Numbers: checkpoints, block formats, encoding, files, and multiplication on quantized bytes."""
