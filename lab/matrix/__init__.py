"""The lab on other kernels: each boots as a virtual machine and is one more worker of pytest-xdist."""
