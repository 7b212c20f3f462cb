"""Tidying up a home: finds what nobody needs any more, and removes it beside living engines."""
