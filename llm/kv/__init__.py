"""Keys and values: the cache, the prefix tree over it, and the prompt cache on disk."""
