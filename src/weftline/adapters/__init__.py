"""Adapters: a folder per port, a file per technology. They translate and decide nothing."""
