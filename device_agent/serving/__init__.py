"""The serving process: one bundle's engine, the local API, and the telemetry ring. See `process`."""
