"""The record of a run: typed events, where they are kept, and what can be read from them."""
