"""Goals: what is wanted, what may be touched, how the result is checked."""
