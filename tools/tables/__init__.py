"""Tables: reading files, describing and querying them."""
