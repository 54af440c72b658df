"""Accidents to a real stack: every test here kills something for real."""
