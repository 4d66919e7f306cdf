"""Text to ids: the tokenizer and the grammar that masks its tokens."""
