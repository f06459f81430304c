"""Topics of synthetic models: runs of neighbouring token numbers that look alike to every router. Imports nothing."""

TOPICS = 64
TOPICS_KEY = "k2lite.synthetic.topics"  # of a GGUF file, for who makes up texts


def topic_tokens(vocab: int, topics: int = TOPICS) -> int:
    """How many tokens a topic has; the last ones may have fewer, or none."""
    return -(-vocab // topics)
