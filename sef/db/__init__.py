"""Connect to the database, run transactions, and retry; nothing here knows agents or prices."""
