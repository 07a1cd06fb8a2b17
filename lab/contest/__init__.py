"""Who is compared with whom: programs, commits, knob settings and stored runs, as a person names them."""
