"""Other machines: each is one more worker of pytest-xdist, reached by ssh."""
