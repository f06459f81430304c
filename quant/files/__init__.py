"""Reading and writing files that may be large, hostile or interrupted."""
