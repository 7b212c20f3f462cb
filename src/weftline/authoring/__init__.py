"""The front-ends: each turns what people write into a core graph, and runs nothing."""
