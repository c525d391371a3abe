"""What several processes share in the state directory, one owner a file. Light: applications import it."""
