"""Groups of commands of ``mirage``, one file a group; what they do is in ``flows/commands``."""
