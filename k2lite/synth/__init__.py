"""Models of random numbers in the shape of real ones."""
