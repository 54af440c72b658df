"""Measurements of the parts, in ratios that hold on any machine."""
