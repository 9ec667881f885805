"""The schema for reading, and the named queries."""
