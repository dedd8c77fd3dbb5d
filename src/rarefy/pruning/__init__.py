"""Removing channels exactly: which, whether it can be done, and the cut itself."""
