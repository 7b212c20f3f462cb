"""The command line: `weft`, one file per noun."""
