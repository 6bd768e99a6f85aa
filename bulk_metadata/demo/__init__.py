"""Everything on one machine that has only Python: ``make run``."""
