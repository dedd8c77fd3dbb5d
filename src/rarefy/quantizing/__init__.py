"""Where a network is rounded to integers, and to which ranges."""
