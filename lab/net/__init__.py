"""Networks of namespaces: described by a Topology, brought up and torn down by a Network."""
