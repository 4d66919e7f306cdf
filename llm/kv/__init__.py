"""Keys and values: the cache, the prefix tree over it, and prompt snapshots on disk."""
