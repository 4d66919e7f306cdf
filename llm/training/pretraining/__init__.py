"""Small models trained from nothing, for tests; part of a checkout, not of the installed package."""
