"""The one SQL database and what is kept in it."""
