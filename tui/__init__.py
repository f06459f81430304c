"""The chat app. It talks to an Engine and nothing else, and never imports torch."""
