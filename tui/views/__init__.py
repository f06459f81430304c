"""What the log of a conversation is made of: questions, answers, tool calls, notices."""
