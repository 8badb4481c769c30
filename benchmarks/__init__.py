"""The project beside its peers: the same work, on the same machine, in turn, in one run."""
