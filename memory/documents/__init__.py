"""Documents: files cut into chunks and kept in step with the disk."""
