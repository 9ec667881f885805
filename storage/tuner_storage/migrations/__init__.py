"""Plain SQL that brings an older database to today's schema, in order of the file names."""
