"""The device and its hub: identity, enrolment, renewal, the MQTT link and the twin."""
