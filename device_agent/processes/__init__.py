"""The serving processes, seen from the control process, and the socket that they share."""
