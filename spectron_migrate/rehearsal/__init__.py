"""A real small Mem0 store to rehearse with, made by Mem0 itself from a data set written by hand."""
