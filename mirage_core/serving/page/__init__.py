"""The page at ``/``, by which a person tries the model: one document without any address, and what it asks for."""
