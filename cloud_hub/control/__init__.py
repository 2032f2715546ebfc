"""The control role: rollouts, monitoring and desired state. `fleet` decides; this reads and writes."""
