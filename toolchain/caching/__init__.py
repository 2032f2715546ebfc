"""What was made before, and whether it still holds: the cache of steps' outputs, the keys that they are found
by (inputs, config, the step's code), the reason why a step runs, and the pruning."""
