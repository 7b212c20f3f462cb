"""What a process does with the runs of its home: drives them or has them driven, steers them, and
waits for what they come to. `app.py` joins these parts."""
