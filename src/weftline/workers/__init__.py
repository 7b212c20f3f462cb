"""Where attempts happen: the executors of one machine, their children, and what a child does."""
