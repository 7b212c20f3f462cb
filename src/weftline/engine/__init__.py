"""Durable runs: the loop that drives them, commits what happens, and takes runs over."""
