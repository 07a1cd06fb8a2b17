"""The only room with ctypes and system calls."""
