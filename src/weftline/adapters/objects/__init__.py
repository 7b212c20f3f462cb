"""Object stores: where large values and code are kept, by the SHA-256 of their content."""
