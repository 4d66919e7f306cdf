"""The agent: goals, the loop, its drivers, checks and what a person sees. May import all below."""
