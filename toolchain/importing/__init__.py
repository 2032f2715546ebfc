"""What a recipe brings in from outside: rows, documents and models, checked before any work starts."""
