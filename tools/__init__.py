"""The tools and their contract. Knows nothing of models or journals."""
