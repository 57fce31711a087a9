"""The paper's co-localisation: digits found in unlabelled images."""
