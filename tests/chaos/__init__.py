"""A lab that is struck at random moments, and what it leaves: `python -m tests.chaos`, or `make chaos`."""
