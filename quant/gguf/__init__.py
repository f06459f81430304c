"""The GGUF file format: parsing, laying out, reading, as one file or in shards."""
