"""The write gate: what may be remembered, and what supersedes what."""
