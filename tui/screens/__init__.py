"""What opens over the chat, and what is chosen there."""
