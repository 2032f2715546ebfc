"""The ingest role: what devices publish goes into the database, and an acknowledgement goes back."""
