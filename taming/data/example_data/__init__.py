"""The example data that the repository ships: rendered scenes in the formats of the real data sets."""
