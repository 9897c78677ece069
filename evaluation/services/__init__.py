"""Services under measurement as child processes, and a client of them."""
