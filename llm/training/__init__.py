"""Making models: data, fine-tuning, training from scratch. Nothing that serves imports it."""
