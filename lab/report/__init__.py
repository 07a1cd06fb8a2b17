"""Stored runs made readable: one HTML page that opens offline, and a short text for the terminal."""
