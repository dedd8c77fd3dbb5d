"""Tensor in, tensor out: the mathematics, without modules and without files."""
