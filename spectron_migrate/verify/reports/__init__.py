"""Reports of a verification: one module a format, each with one function that makes the whole report."""
