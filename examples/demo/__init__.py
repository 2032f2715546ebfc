"""`edgeops demo`: the whole loop on one machine, through the public commands and APIs only."""
