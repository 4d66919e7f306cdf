"""Carrying out a run: the pure decision, its drivers, and what surrounds a call."""
