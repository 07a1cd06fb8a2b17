"""A failed scenario done again: what it loaded, wrote, attached and sent, kept in a folder and run once more."""
