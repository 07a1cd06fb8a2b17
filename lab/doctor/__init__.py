"""What this machine and its kernel can do for the lab, what is missing, what that costs, and how to mend it."""
