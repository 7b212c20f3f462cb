"""What is true: plain values and rules. Knows no clock, file, thread or socket."""
