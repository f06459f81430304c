"""Which block type each tensor of a file gets."""
