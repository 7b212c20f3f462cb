"""Code by value: functions and classes as bytes that another process, or a later one, can use.

Code of `__main__`, of notebooks and of every module outside site-packages and the standard library
travels by value, so that a resume runs what was stored. Installed packages, and Weftline itself,
travel by reference. A class carries its module and name: a process that has that class uses its
own, so that `isinstance` and `except` work in drivers.
"""
