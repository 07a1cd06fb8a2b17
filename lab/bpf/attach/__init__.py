"""One hook, one file: how each kind of program is attached."""
