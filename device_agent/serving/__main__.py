"""`python -P -m device_agent.serving --channel FD`: started by the control process alone."""

from device_agent.serving.process import entry

if __name__ == "__main__":
    entry()
