"""Looking at a model: its weights by path."""
