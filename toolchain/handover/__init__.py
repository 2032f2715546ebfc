"""How a step gets what it works on, and hands over what it made: its context, and arrays in files."""
