"""Numbers into blocks and back."""
