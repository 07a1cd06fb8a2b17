"""Why a scenario failed: what was noted while it ran, read for what tells. Pure: no system call, no file."""
