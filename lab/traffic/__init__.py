"""Traffic: frames and streams sent, captured, counted and compared."""
