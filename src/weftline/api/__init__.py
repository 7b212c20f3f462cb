"""The Python API, by what one does with it; `weftline.workflow` names it for users."""
