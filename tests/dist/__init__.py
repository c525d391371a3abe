"""The packages as users get them."""
