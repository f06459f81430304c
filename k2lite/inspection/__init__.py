"""What is in a model on the drive."""
