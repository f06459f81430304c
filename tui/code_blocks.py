"""The code in an answer, for copying it."""

from markdown_it import MarkdownIt


def code_blocks(markdown: str) -> list[str]:
    """The text of every code block, in order; of an unfinished last one too."""
    tokens = MarkdownIt("gfm-like", {"html": False}).parse(markdown)
    return [token.content for token in tokens if token.type in ("fence", "code_block") and token.content.strip()]
