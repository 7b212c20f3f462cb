"""The driver's side of the controller: finds or starts it, and speaks to it."""
