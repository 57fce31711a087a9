"""The paper's tables: their cells, how they are run, and what becomes of the records."""
