"""The gRPC study server: leases, limits, events, and the one door to the database."""
