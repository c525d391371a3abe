"""Proof that everything arrived, in its place and in order, and that recall is as good as before."""
