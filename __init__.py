"""AutoGPT: an autonomous agent that owns its model."""
