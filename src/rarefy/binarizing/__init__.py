"""What `Binarize` looks at and says, apart from the step itself."""
