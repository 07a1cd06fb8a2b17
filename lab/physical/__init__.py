"""A pair of namespaces on two hosts: real interfaces and a cable in the place of a veth."""
