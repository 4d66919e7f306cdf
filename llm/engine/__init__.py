"""Decoding: batches of sequences, sampling, speculation, failures."""
