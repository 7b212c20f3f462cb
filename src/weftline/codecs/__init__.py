"""Values as bytes and back: JSON, `.npy`, Arrow or pickle, whichever gives an equal value back.

Only drivers and children use this: engine and server hand encoded values on without reading them.
"""
