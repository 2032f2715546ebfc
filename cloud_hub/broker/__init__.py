"""The embedded MQTT broker, and the hub's links to it."""
