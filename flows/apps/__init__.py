"""The commands of ``mirage``: their arguments and help. What they do is in ``flows/commands``, imported when called."""
