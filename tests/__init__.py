"""Tests of spectron-migrate."""
