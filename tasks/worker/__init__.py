"""The worker: its parent process and its child."""
