"""What the lab talks about: plain values, standard library only, no input or output."""
