"""Where the events of all runs are kept: in memory, or in SQLite below a home folder."""
