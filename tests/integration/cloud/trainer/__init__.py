"""A trainer as Cloud ML Engine took them: a package with a task, and flags for parameters."""
