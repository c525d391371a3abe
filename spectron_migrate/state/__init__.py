"""What several processes share in a state; each file has one owner. Kept light, because applications import it."""
