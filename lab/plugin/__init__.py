"""The parts of the pytest plugin, one file a purpose: each is a plugin of its own to pytest."""
