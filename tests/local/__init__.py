"""Tests of the local Spectron."""
