"""Integer front ends: NumPy golden models, the C core behind the same names, torch simulation."""
