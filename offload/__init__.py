"""Where expert bytes live, how they move, and which processor multiplies them."""
