"""Making models: fine-tuning, learning from preferences and rewards. Nothing that serves imports it."""
