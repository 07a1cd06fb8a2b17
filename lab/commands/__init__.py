"""The commands of `lab`, one a file; each is imported only when it runs."""
