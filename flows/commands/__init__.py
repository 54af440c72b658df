"""What the command line does, a command a file; flows/cli.py is the front."""
