"""What several tests use: tiny models, a pupil that learns at once, scripts, paths."""
