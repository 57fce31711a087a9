"""The paper's tables: their cells, how these are trained, and how results are reported."""
