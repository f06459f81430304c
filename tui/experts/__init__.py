"""Where the experts are and how much they are used, as pictures made of characters."""
