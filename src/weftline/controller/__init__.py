"""The controller of a home: drives detached runs for all processes that use it."""
