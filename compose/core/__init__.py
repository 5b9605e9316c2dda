"""Spaces, roles, kinds, the algebra, the ledger and the table of parts."""
