"""Parts that several tests play on."""
