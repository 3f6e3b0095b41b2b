"""A night from beginning to end: its lease, its entry in the ledger, what it takes in, what it goes on from."""
