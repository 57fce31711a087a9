"""One module for each table: what it reproduces, its cells and settings, and its page."""
