"""A run on separate hosts, which are Linux namespaces of one machine, and faults of hosts and of the network."""
