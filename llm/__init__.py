"""The models: words, tokens, grammar, engine and registry. Knows nothing of tools or runs."""
