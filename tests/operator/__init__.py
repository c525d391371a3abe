"""What an operator is given: CI files, manifests, the image, the docs, the packages."""
